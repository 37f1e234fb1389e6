"""kill -9 of cribd at every moment of every verb: nothing half-made is ever seen, and a retry succeeds.

The production code has no hooks for this. A verb is begun, the daemon is killed after a delay that sweeps
over the time that the verb takes, and then started again. Every try ends with a count: all is as before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import Entry, busybox_image, write_saved_archive
from tests.system.labs.daemon import Cri, Cribd, default_shim, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

FEW = (1, 3, 6, 9, 13)
"""Milliseconds from the request to the kill: verbs take 4 to 20 here. The ordinary suite looks at these."""
TRIES = 20
"""More kills, at once, where a busy machine had each of those come after the answer."""
MANY = tuple(step / 2 for step in range(40))

sweep = pytest.mark.parametrize(
    "milliseconds", [FEW, pytest.param(MANY, marks=pytest.mark.nightly)], ids=["few", "many"]
)


each_kind = pytest.mark.parametrize("cribd", ["oci", "shim"], indirect=True)
now_and_nightly = pytest.mark.parametrize(
    "cribd", ["oci", pytest.param("shim", marks=pytest.mark.nightly)], indirect=True
)


@pytest.fixture
def cribd(request: pytest.FixtureRequest) -> Iterator[Cribd]:
    extra = default_shim() if getattr(request, "param", "") == "shim" else ""
    with running_cribd(extra=extra) as daemon:
        yield daemon


async def killed_in(cribd: Cribd, call: Awaitable[object], milliseconds: float) -> bool:
    """Kill the daemon that long after the call began, and start it again; whether the answer still came."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_answered(call))
        await asyncio.sleep(milliseconds / 1000)  # the moment of the kill; any will do
        await asyncio.to_thread(cribd.kill)
        answered = await waiting
    await asyncio.to_thread(cribd.start)
    return answered


async def _answered(call: Awaitable[object]) -> bool:
    try:
        await call
    except ClientError as error:
        if error.code != "UNAVAILABLE":
            raise
        return False
    return True


async def _removals_are_done(cri: Cri) -> bool:
    """A pod whose removal was cut off is hidden, and its removal goes on; the daemon takes calls after 3 s at
    the latest, so on a busy machine before that has ended.
    """
    sandboxes = await cri.sandboxes()
    rows = {row.split()[1] for row in cri.cribd.leftovers().rows if row.startswith("sandboxes ")}
    return rows == set(sandboxes)


async def check_whole(cri: Cri) -> None:
    """What is listed can be asked for and is in a state that CRI knows; nothing else is there."""
    await until(lambda: _removals_are_done(cri))
    sandboxes, containers = await cri.sandboxes(), await cri.containers()
    for container in containers.values():
        assert container.pod_sandbox_id in sandboxes
        status = await cri.status(container.id)
        assert status.state != pb.CONTAINER_UNKNOWN, status
    left = cri.cribd.leftovers()
    for kind in ("sandboxes", "containers"):
        rows = {row.split()[1] for row in left.rows if row.startswith(f"{kind} ")}
        assert rows == set(sandboxes if kind == "sandboxes" else containers)
    directories = {file.split("/")[2] for file in left.files if file.startswith("s/containers/")}
    assert directories - set(sandboxes) == set(containers)  # a pod's shim has one of its own
    assert set(os.listdir(cri.cribd.state / "sandboxes")) == set(sandboxes)  # each a mount of its own


async def clear(cri: Cri) -> None:
    for sandbox in await cri.sandboxes():
        await cri.remove_pod(sandbox)


@each_kind
@sweep
async def test_run_pod_sandbox(cribd: Cribd, milliseconds: tuple[float, ...]) -> None:
    before = cribd.leftovers()
    interrupted = 0
    tries = itertools.chain(milliseconds, itertools.repeat(0, TRIES))
    for number, delay in enumerate(tries):
        if number >= len(milliseconds) and interrupted:
            break
        options = pb.NamespaceOption(pid=pb.POD if number % 2 else pb.CONTAINER)
        async with cribd.connect() as cri:
            await cri.sandboxes()  # connected
            config = cri.pod_config(f"pod{number}", namespaces=options)
            ports = pb.PortMapping(container_port=80, host_port=30000 + number)
            config.port_mappings.append(ports)
            answered = await killed_in(cribd, pods.run_sandbox(cri.connection, config), delay)
            interrupted += not answered
        async with cribd.connect() as cri:
            await check_whole(cri)
            known = await cri.sandboxes()
            assert len(known) >= answered
            assert all(sandbox.state == pb.SANDBOX_READY for sandbox in known.values())
            pod = await pods.run_sandbox(cri.connection, config)
            assert set(known) <= {pod.id}
            assert set(await cri.sandboxes()) == {pod.id}
            await cri.run_container(pod, "true", namespaces=options)
            await clear(cri)
        cribd.settle(before)
    assert interrupted


@each_kind
@sweep
async def test_create_and_start_container(cribd: Cribd, milliseconds: tuple[float, ...]) -> None:
    before = cribd.leftovers()

    async def both(cri: Cri, pod: Pod, config: pb.ContainerConfig) -> str:
        box = await pods.create_container(cri.connection, pod, config)
        await cri.start(box)
        return box

    for delay in (2 * delay for delay in milliseconds):  # two verbs
        async with cribd.connect() as cri:
            pod = await cri.run_pod("pod")
            config = cri.container_config("sleep", "1000")
            answered = await killed_in(cribd, both(cri, pod, config), delay)
        async with cribd.connect() as cri:
            await check_whole(cri)
            known = await cri.containers()
            assert len(known) >= answered
            box = await pods.create_container(cri.connection, pod, config)
            assert set(known) <= {box}
            if (await cri.status(box)).state == pb.CONTAINER_CREATED:
                await cri.start(box)
            assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
            assert await cri.sh(box, "echo fine") == "fine"
            await clear(cri)
        cribd.settle(before)


async def _pod_with_containers(cri: Cri) -> Pod:
    options = pb.NamespaceOption(pid=pb.POD)
    pod = await cri.run_pod("pod", namespaces=options)
    for name in ("one", "two"):
        await cri.run_container(pod, "sleep", "1000", name=name, namespaces=options)
    await cri.create(pod, "sleep", "1000", name="created", namespaces=options)
    return pod


async def _stop_pod(cri: Cri, pod: Pod) -> None:
    await cri.stop_pod(pod)


async def _remove_pod(cri: Cri, pod: Pod) -> None:
    await pods.remove(cri.connection, pod.id)


async def _remove_containers(cri: Cri, _: Pod) -> None:
    for box in await cri.containers():
        await cri.stop_container(box)
        await cri.remove_container(box)


@now_and_nightly
@sweep
@pytest.mark.parametrize(
    "verb", [_stop_pod, _remove_pod, _remove_containers], ids=lambda verb: verb.__name__[1:]
)
async def test_stop_and_remove(
    cribd: Cribd, milliseconds: tuple[float, ...], verb: Callable[[Cri, Pod], Awaitable[None]]
) -> None:
    before = cribd.leftovers()
    for delay in milliseconds:
        async with cribd.connect() as cri:
            pod = await _pod_with_containers(cri)
            answered = await killed_in(cribd, verb(cri, pod), delay)
        async with cribd.connect() as cri:
            await check_whole(cri)
            if answered and verb is _stop_pod:
                assert (await cri.pod_status(pod)).state == pb.SANDBOX_NOTREADY
            if answered and verb is _remove_pod:
                assert await cri.sandboxes() == {}
            await verb(cri, pod)
            await clear(cri)
        cribd.settle(before)


@sweep
async def test_import_of_an_image(cribd: Cribd, milliseconds: tuple[float, ...], tmp_path: Path) -> None:
    before = cribd.leftovers()
    for number, delay in enumerate(10 * delay for delay in milliseconds):  # starts a worker: some 200 ms
        name = f"registry.test/crash:{number}"
        content = Entry("own", str(number).encode() * 2_000_000)
        archive = write_saved_archive(tmp_path / "image.tar", [busybox_image([content], name=name)])
        async with cribd.connect() as cri:
            await cri.sandboxes()
            answered = await killed_in(cribd, cri.import_archive(archive), 2 * delay)
        async with cribd.connect() as cri:
            assert (name in await cri.image_names()) >= answered
            if not answered and name not in await cri.image_names():
                cribd.settle(before)
            assert await cri.import_archive(archive) == [name]
            pod = await cri.run_pod("pod")
            box = await cri.run_container(pod, "sleep", "100", image=name)
            assert await cri.sh(box, "wc -c </own") == str(len(content.data))
            await clear(cri)
            remove = pb.RemoveImageRequest(image=pb.ImageSpec(image=name))
            await cri.call(cri.image.RemoveImage, remove)
        cribd.settle(before)


@each_kind
@pytest.mark.parametrize(
    "milliseconds",
    [(30, 110), pytest.param(range(5, 305, 15), marks=pytest.mark.nightly)],
    ids=["few", "many"],
)
async def test_ten_pods_in_the_making_and_unmaking(cribd: Cribd, milliseconds: tuple[float, ...]) -> None:
    before = cribd.leftovers()

    async def lives(cri: Cri) -> None:
        tasks = [asyncio.ensure_future(life(cri, number)) for number in range(10)]
        try:
            await asyncio.gather(*tasks)
        finally:  # none of them goes on with the next daemon
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def life(cri: Cri, number: int) -> None:
        while True:
            pod = await cri.run_pod(f"pod{number}")
            box = await cri.run_container(pod, "sh", "-c", "exit 3")
            assert (await cri.exited(box)).exit_code == 3
            await cri.run_container(pod, "sleep", "1000", name="second")
            await cri.remove_pod(pod)

    for delay in milliseconds:
        async with cribd.connect() as cri:
            await killed_in(cribd, lives(cri), delay)
        async with cribd.connect() as cri:
            await check_whole(cri)
            for box, container in (await cri.containers()).items():
                if container.metadata.name == "box" and container.state != pb.CONTAINER_CREATED:
                    assert (await cri.exited(box)).exit_code == 3
            await clear(cri)
        cribd.settle(before)


@each_kind
async def test_a_daemon_that_is_killed_in_its_recovery_recovers_the_next_time(cribd: Cribd) -> None:
    before = cribd.leftovers()
    async with cribd.connect() as cri:
        pod = await _pod_with_containers(cri)
        for delay in (2, 5):
            await killed_in(cribd, _answered(cri.run_pod("more")), delay)
    for seconds in (0.2, 0.3, 0.4):
        cribd.kill()
        cribd.start_and_kill(seconds)
    cribd.start()
    async with cribd.connect() as cri:
        await check_whole(cri)
        assert (await cri.pod_status(pod)).state == pb.SANDBOX_READY
        with contextlib.suppress(ClientError):
            await clear(cri)
    cribd.settle(before)
