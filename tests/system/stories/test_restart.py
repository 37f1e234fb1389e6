"""cribd ends, by kill -9, by SIGTERM or with the whole machine, and comes back: what is there then."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crib.client.errors import ClientError, NotFound, WrongState
from crib.client.pods import Pod
from crib.host.mounts import unmount
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import Entry, busybox_image, write_saved_archive
from tests.patience import PATIENCE
from tests.system.labs.daemon import Cri, Cribd, first_pid, log_contents, page, running_cribd, until
from tests.system.labs.leftovers import processes_of
from tests.system.labs.network_lab import host_port
from tests.system.labs.power_cuts import power_cut

pytestmark = [pytest.mark.root, pytest.mark.system]

COUNTING = "i=0; until [ -e /stop ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 5"


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    """Each story has its own: what is started anew is a new process, and it would count as left behind."""
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def monitor_pid(cri: Cri, container: str) -> int:
    found = processes_of(cri.cribd.root, cri.cribd.cgroup)
    return next(pid for pid, command in found if "conmon" in command and container[:20] in command)


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_after_kill_9_all_is_there_and_what_ended_meanwhile_has_its_exit_code(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    told = [pb.Mount(container_path="/told", host_path=str(tmp_path))]
    runs, ends, stopped = [await cri.run_pod(name) for name in ("runs", "ends", "stopped")]
    counting = await cri.run_container(runs, "sh", "-c", COUNTING, name="counting")
    created = await cri.create(runs, "sleep", "100", name="created")
    script = "until [ -e /told/end ]; do sleep 0.01; done; echo bye; exit 7"
    ending = await cri.run_container(ends, "sh", "-c", script, name="ending", mounts=told)
    gone = await cri.run_container(ends, "sh", "-c", "exit 3", name="gone")
    await cri.exited(gone)
    await cri.stop_pod(stopped)
    before = {box: await cri.status(box) for box in (counting, created, gone)}
    address = (await cri.pod_status(runs)).network.ip
    log = cribd.logs / "runs" / "counting.log"
    first = await first_pid(cri, counting)

    cribd.kill()
    assert is_running(first)
    written = log.stat().st_size
    await until(lambda: log.stat().st_size > written)
    (tmp_path / "end").touch()
    await until((cribd.state / "exits" / ending).exists)
    died_by = time.time_ns()
    cribd.start()

    async with cribd.connect() as again:
        states = {id_: sandbox.state for id_, sandbox in (await again.sandboxes()).items()}
        ready, not_ready = pb.SANDBOX_READY, pb.SANDBOX_NOTREADY
        assert states == {runs.id: ready, ends.id: ready, stopped.id: not_ready}
        assert set(await again.containers()) == {counting, created, ending, gone}
        for box, status in before.items():
            assert await again.status(box) == status
        assert (await again.pod_status(runs)).network.ip == address
        status = await again.status(ending)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 7, "Error")
        assert status.started_at < status.finished_at <= died_by
        # and they can be worked with as if nothing had been
        await again.start(created)
        await again.sh(created, "true")
        await again.execute(counting, "touch", "/stop")  # killed itself, perhaps, with its container
        assert (await again.exited(counting)).exit_code == 5
    numbers = log_contents(log)["stdout"].split()
    assert numbers == [b"%d" % number for number in range(len(numbers))]


async def test_a_service_managers_restart_leaves_containers_alone(cri: Cri, cribd: Cribd) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    pod = await cri.run_pod("kept", namespaces=shared)
    box = await cri.run_container(pod, "sleep", "1000", namespaces=shared)
    first = await first_pid(cri, box)
    cribd.stop()
    assert is_running(first)
    assert not await_socket(cribd.socket)
    cribd.start()
    async with cribd.connect() as again:
        assert (await again.pod_status(pod)).state == pb.SANDBOX_READY
        assert "sleep" in await again.sh(box, "ps")
        assert await first_pid(again, box) == first
        other = await again.run_container(pod, "sleep", "2000", name="other", namespaces=shared)
        assert "sleep 1000" in await again.sh(other, "cat /proc/*/cmdline | tr '\\0' ' '")


def await_socket(path: Path) -> bool:
    """Whether somebody answers there."""
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize("daemon_runs", [True, False])
async def test_a_container_whose_monitor_was_killed_is_ended_and_shown_as_lost(
    cri: Cri, cribd: Cribd, *, daemon_runs: bool
) -> None:
    pod = await cri.run_pod("lost")
    box = await cri.run_container(pod, "sleep", "1000")
    first, monitor = await first_pid(cri, box), await monitor_pid(cri, box)
    if not daemon_runs:
        cribd.kill()
    os.kill(monitor, signal.SIGKILL)
    if not daemon_runs:
        await until(lambda: not is_running(monitor))
        assert is_running(first)
        cribd.start()
    async with cribd.connect() as again:
        status = await again.exited(box)
        assert (status.exit_code, status.reason) == (255, "Unknown")
        assert "monitor" in status.message
        await until(lambda: not is_running(first))
        assert (await again.pod_status(pod)).state == pb.SANDBOX_READY
        await again.run_container(pod, "sleep", "100", name="next")


async def test_a_pod_that_loses_its_infra_process_or_a_namespace_is_not_ready_within_a_second(
    cri: Cri, cribd: Cribd
) -> None:
    """And what runs in it lives on where it can, also through a restart, until the pod is stopped."""
    shared = await cri.run_pod("shared", namespaces=pb.NamespaceOption(pid=pb.POD))
    bare, whole = await cri.run_pod("bare"), await cri.run_pod("whole")
    inside = await cri.run_container(
        shared, "sleep", "1000", name="inside", namespaces=pb.NamespaceOption(pid=pb.POD)
    )
    alone = await cri.run_container(shared, "sleep", "1000", name="alone")
    outlives = await cri.run_container(bare, "sleep", "1000")
    infra = int((cribd.state / "sandboxes" / shared.id / "infra/pidfile").read_text())
    stream = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
    await stream.initial_metadata()

    async def until_told(pod: Pod) -> None:
        async with asyncio.timeout(60 * PATIENCE):
            async for event in stream:
                if event.container_id == pod.id:
                    assert event.container_event_type == pb.CONTAINER_STOPPED_EVENT
                    assert event.pod_sandbox_status.state == pb.SANDBOX_NOTREADY
                    return

    os.kill(infra, signal.SIGKILL)
    await until_told(shared)
    assert (await cri.exited(inside)).exit_code == 137
    unmount(str(cribd.state / "sandboxes" / bare.id / "ns/ipc"))
    await until_told(bare)
    stream.cancel()
    for pod in (shared, bare):
        with pytest.raises(WrongState, match="not-ready"):
            await cri.create(pod, "true", name="late")
    cribd.kill()
    cribd.start()
    for box in (alone, outlives):
        assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
    assert await cri.sh(outlives, "echo on") == "on"
    states = {item.id: item.state for item in (await cri.sandboxes()).values()}
    assert states == {shared.id: 1, bare.id: 1, whole.id: pb.SANDBOX_READY}
    for pod in (shared, bare):
        await cri.remove_pod(pod)
        assert pod.id not in await cri.sandboxes()


async def test_a_row_that_cannot_be_read_costs_that_pod_alone(cri: Cri, cribd: Cribd) -> None:
    fine, torn = await cri.run_pod("fine"), await cri.run_pod("torn")
    box, half = [await cri.run_container(pod, "sleep", "100") for pod in (fine, torn)]
    lost = await cri.run_container(fine, "sleep", "100", name="lost")
    processes = [await first_pid(cri, container) for container in (half, lost)]
    cribd.kill()
    with closing(sqlite3.connect(cribd.boot_records)) as database:
        database.execute("UPDATE sandboxes SET record = x'00ff' WHERE id = ?", (torn.id,))
        database.execute("UPDATE containers SET record = x'' WHERE id = ?", (lost,))
        database.commit()
    cribd.start()
    async with cribd.connect() as again:
        assert set(await again.sandboxes()) == {fine.id}
        assert set(await again.containers()) == {box}
        assert await again.sh(box, "echo well") == "well"
        # what the rows stood for is nobody's any more, and swept
        for pid in processes:
            await until(lambda pid=pid: not is_running(pid))
        with pytest.raises(NotFound):
            await again.status(lost)
        await again.run_container(fine, "sleep", "100", name="lost")
    cribd.written()
    with closing(sqlite3.connect(cribd.database)) as database:
        assert database.execute("SELECT count(*) FROM unreadable").fetchone() == (2,)
    with closing(sqlite3.connect(cribd.boot_records)) as database:
        database.execute("DELETE FROM unreadable")
        database.commit()


async def test_files_that_are_missing_or_torn_do_not_stop_the_start(cri: Cri, cribd: Cribd) -> None:
    pods = [await cri.run_pod(name) for name in ("pid", "bundle", "directory", "note")]
    boxes = [await cri.run_container(pod, "sleep", "100") for pod in pods]
    cribd.kill()
    containers = cribd.state / "containers"
    (containers / boxes[0] / "pidfile").write_bytes(b"")
    (containers / boxes[1] / "config.json").write_bytes(b"")
    (cribd.state / "sandboxes" / pods[2].id / "resolv.conf").unlink()
    (containers / boxes[3] / "crib.json").write_bytes(b"{")
    (cribd.data / "staging" / "half-a-layer").write_bytes(b"x" * 1000)
    (cribd.data / "layers" / ("0" * 64 + ".erofs")).write_bytes(b"x" * 1000)
    (containers / "not-an-id").mkdir()
    cribd.start()
    async with cribd.connect() as again:
        assert set(await again.sandboxes()) == {pod.id for pod in pods}
        for stray in (cribd.data / "staging" / "half-a-layer", cribd.data / "layers" / ("0" * 64 + ".erofs")):
            await until(lambda stray=stray: not stray.exists())  # swept behind the gate
        for box in boxes:
            await again.stop_container(box)
            assert (await again.status(box)).exit_code == 137
        for pod in pods:
            await again.remove_pod(pod)
    (containers / "not-an-id").rmdir()


async def test_after_a_reboot_containers_have_ended_and_sandboxes_are_not_ready(cribd: Cribd) -> None:
    async with cribd.connect() as cri:
        pods = [await cri.run_pod(name) for name in ("one", "two")]
        boxes = [await cri.run_container(pod, "sleep", "1000") for pod in pods]
        ended = await cri.run_container(pods[0], "sh", "-c", "exit 9", name="ended")
        await cri.exited(ended)
    power_cut(cribd)
    cribd.start()
    async with cribd.connect() as cri:
        assert {s.state for s in (await cri.sandboxes()).values()} == {pb.SANDBOX_NOTREADY}
        statuses = {box: await cri.status(box) for box in (*boxes, ended)}
        assert {status.state for status in statuses.values()} == {pb.CONTAINER_EXITED}
        assert [statuses[box].exit_code for box in (*boxes, ended)] == [255, 255, 9]
        assert statuses[boxes[0]].finished_at >= statuses[boxes[0]].started_at
        rows = cribd.leftovers().rows
        assert not [row for row in rows if row.startswith("pod_address ")]
        # the kubelet makes the pod anew, with the next attempt
        config = pb.PodSandboxConfig()
        config.CopyFrom(pods[0].config)
        config.metadata.attempt = 1
        request = pb.RunPodSandboxRequest(config=config)
        anew = Pod((await cri.call(cri.runtime.RunPodSandbox, request)).pod_sandbox_id, config)
        box = await cri.run_container(anew, "sleep", "100")
        assert await cri.sh(box, "echo up") == "up"
        for pod in (*pods, anew):
            await cri.remove_pod(pod)


async def test_a_pods_address_and_ports_serve_on_without_cribd_and_after_it(cri: Cri, cribd: Cribd) -> None:
    port = host_port()
    mapping = pb.PortMapping(container_port=8080, host_port=port)
    web = await cri.run_pod("web", port_mappings=[mapping])
    await cri.run_container(web, "httpd", "-f", "-p", "8080", "-h", "/etc")
    assert await until(lambda: page("127.0.0.1", port)) == "web"
    cribd.kill()
    assert await until(lambda: page("127.0.0.1", port)) == "web"
    cribd.start()
    assert await until(lambda: page("127.0.0.1", port)) == "web"
    async with cribd.connect() as again:
        with pytest.raises(ClientError, match=str(port)):
            await again.run_pod("other", port_mappings=[mapping])
        other = await again.run_pod("other")
        assert (await again.pod_status(other)).network.ip != (await again.pod_status(web)).network.ip
        await again.remove_pod(web)
        assert await page("127.0.0.1", port) == ""
        await again.run_pod("next", port_mappings=[mapping])


def damage(cribd: Cribd) -> None:
    for suffix in ("-wal", "-shm"):
        cribd.database.with_name(f"crib.db{suffix}").unlink(missing_ok=True)
    cribd.database.write_bytes(b"not a database at all" * 1000)


async def test_a_damaged_file_of_pods_costs_nothing_within_the_boot(cri: Cri, cribd: Cribd) -> None:
    box = await cri.run_container(await cri.run_pod("kept"), "sleep", "1000")
    cribd.kill()
    damage(cribd)
    cribd.start()
    async with cribd.connect() as again:
        assert await again.sh(box, "echo on") == "on"
        await until(lambda: any(cribd.data.glob("crib.db.broken-*")))
        cribd.written()
        await again.run_container(await again.run_pod("next"), "sleep", "100")
    assert "was damaged (file is not a database): kept as" in cribd.log()
    [aside] = cribd.data.glob("crib.db.broken-*")
    aside.unlink()


async def test_pods_that_no_file_knows_any_more_are_swept_and_images_stay(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("forgotten")
    first = await first_pid(cri, await cri.run_container(pod, "sleep", "1000"))
    images = await cri.image_names()
    cribd.kill()
    damage(cribd)
    for path in cribd.state.glob("records.db*"):
        path.unlink()
    cribd.start()
    async with cribd.connect() as again:
        assert await again.sandboxes() == {}
        assert await again.image_names() == images
        await until(lambda: not is_running(first))
        await again.run_container(await again.run_pod("next"), "sleep", "100")
    [aside] = cribd.data.glob("crib.db.broken-*")
    aside.unlink()


async def test_a_verb_under_way_is_finished_before_cribd_ends(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("stopping")
    script = "trap 'touch /told' TERM; touch /ready; while :; do sleep 0.02; done"
    box = await cri.run_container(pod, "sh", "-c", script)
    await cri.sh(box, "until [ -e /ready ]; do sleep 0.01; done", timeout=int(20 * PATIENCE))
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(cri.stop_container(box, grace=2))
        await until((cribd.data / "containers" / box / "upper" / "told").exists)  # under way
        ending = group.create_task(asyncio.to_thread(cribd.stop))
        await stopping
        await ending
    cribd.start()
    async with cribd.connect() as again:
        assert (await again.status(box)).exit_code == 137


async def test_a_removed_images_layers_stay_as_long_as_a_container_needs_them(cri: Cri, cribd: Cribd) -> None:
    name = "registry.test/going:1"
    archive = write_saved_archive(cribd.root / "going.tar", [busybox_image([Entry("own", b"x")], name=name)])
    await cri.import_archive(archive)
    archive.unlink()
    pod = await cri.run_pod("user")
    box = await cri.run_container(pod, "sleep", "100", image=name)
    await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        assert name not in await again.image_names()
        assert await again.sh(box, "cat /own") == "x"
        with pytest.raises(NotFound):
            await again.create(pod, "true", name="late", image=name)
        await again.remove_pod(pod)
    cribd.kill()  # what is left of it goes at the latest now
    cribd.start()
