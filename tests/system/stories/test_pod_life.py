"""The life of a pod as a kubelet leads it, over the real socket of a real daemon."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.backends.host_facts import read_host_facts
from crib.client import events
from crib.client.errors import InvalidRequest
from crib.host.cgroups import detect_layout
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.patience import PATIENCE
from tests.system.labs.daemon import IMAGE, Cri, Cribd, default_handler, log_contents, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

SIGUSR1 = pb.Signal.Value("SIGNAL_SIGUSR1")


@pytest.fixture(scope="module", params=["crun", "runc"])
def cribd(request: pytest.FixtureRequest) -> Iterator[Cribd]:
    with running_cribd(extra=default_handler(request.param)) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


async def test_a_pod_has_what_its_config_says_and_goes_without_a_trace(cri: Cri, cribd: Cribd) -> None:
    dns = pb.DNSConfig(servers=["192.0.2.53"], searches=["svc.test"], options=["ndots:5"])
    pod = await cri.run_pod("web", dns_config=dns, labels={"app": "web"})
    status = await cri.pod_status(pod)
    assert status.state == pb.SANDBOX_READY
    assert status.network.ip.rpartition(".")[0] == cribd.subnet.rpartition(".")[0]
    box = await cri.run_container(pod, "sleep", "100")
    assert await cri.sh(box, "hostname") == "web"
    assert f"{status.network.ip}\tweb" in await cri.sh(box, "cat /etc/hosts")
    resolv = await cri.sh(box, "cat /etc/resolv.conf")
    assert set(resolv.splitlines()) == {"search svc.test", "nameserver 192.0.2.53", "options ndots:5"}
    assert status.network.ip in await cri.sh(box, "ip -4 addr show eth0")
    found = await cri.status(box)
    image = (await cri.call(cri.image.ListImages, pb.ListImagesRequest())).images[0]
    assert (found.image.image, found.image_id) == (IMAGE, image.id)
    # a docker-archive holds no manifest, so no digest is known by which the name could be given
    assert found.image_ref in (image.id, *image.repo_digests)
    await cri.remove_pod(pod)
    assert await cri.sandboxes() == {}
    assert await cri.containers() == {}


async def test_two_containers_see_the_same_network_and_shm_but_not_each_others_processes(cri: Cri) -> None:
    pod = await cri.run_pod("pair")
    one = await cri.run_container(pod, "httpd", "-f", "-p", "8080", "-h", "/etc", name="one")
    two = await cri.run_container(pod, "sleep", "100", name="two")
    await cri.sh(one, "echo there >/dev/shm/note")
    assert await cri.sh(two, "cat /dev/shm/note") == "there"
    fetch = "wget -qO- http://127.0.0.1:8080/hostname || true"
    assert await until(lambda: cri.sh(two, fetch)) == "pair"
    assert "httpd" not in await cri.sh(two, "ps")
    await cri.remove_pod(pod)


async def test_events_tell_a_whole_life_in_order_with_the_states_of_that_moment(cri: Cri) -> None:
    seen: list[pb.ContainerEventResponse] = []
    subscribed = asyncio.Event()

    async def listen() -> None:
        call = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
        await call.initial_metadata()
        subscribed.set()
        async for event in call:
            seen.append(event)
            if (event.container_event_type, event.container_id) == (
                pb.CONTAINER_DELETED_EVENT,
                event.pod_sandbox_status.id,
            ):
                return

    async with asyncio.TaskGroup() as group:
        listener = group.create_task(listen())
        await subscribed.wait()
        pod = await cri.run_pod("told")
        box = await cri.create(pod, "sh", "-c", "exit 3")
        await cri.start(box)
        await cri.exited(box)
        await cri.remove_container(box)
        await cri.remove_pod(pod)
        await asyncio.wait_for(listener, 30 * PATIENCE)
    names = {pod.id: "pod", box: "box"}
    told = [
        (names[event.container_id], pb.ContainerEventType.Name(event.container_event_type).split("_")[1])
        for event in seen
    ]
    assert told == [
        ("pod", "CREATED"),
        ("pod", "STARTED"),
        ("box", "CREATED"),
        ("box", "STARTED"),
        ("box", "STOPPED"),
        ("box", "DELETED"),
        ("pod", "STOPPED"),
        ("pod", "DELETED"),
    ]
    states = [[status.state for status in event.containers_statuses] for event in seen]
    assert states[2] == [pb.CONTAINER_CREATED]
    assert states[4] == [pb.CONTAINER_EXITED]
    assert seen[4].containers_statuses[0].exit_code == 3
    assert states[5:] == [[], [], []]
    assert seen[0].pod_sandbox_status.state == pb.SANDBOX_READY
    assert seen[6].pod_sandbox_status.state == pb.SANDBOX_NOTREADY
    assert [event.created_at for event in seen] == sorted(event.created_at for event in seen)


async def test_logs_are_in_cri_format_with_streams_and_long_lines_in_parts(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("logged")
    script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf unended"
    box = await cri.run_container(pod, "sh", "-c", script)
    status = await cri.exited(box)
    assert status.log_path == str(cribd.logs / "logged" / "box.log")
    lines = Path(status.log_path).read_text().splitlines()
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout|stderr) [FP] .*"
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []
    found = log_contents(status.log_path)
    assert found["stderr"] == b"err\n"
    assert found["stdout"].rstrip(b"\n") == b"out\n" + b"x" * 20000 + b"\nunended"
    await cri.remove_pod(pod)
    assert os.path.exists(status.log_path)


async def test_a_log_that_is_rotated_again_and_again_loses_no_line(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("rotated")
    script = "i=0; until [ -e /stop ]; do echo $i; i=$((i+1)); done"
    box = await cri.run_container(pod, "sh", "-c", script)
    path = cribd.logs / "rotated" / "box.log"
    for number in range(8):
        await until(lambda: path.exists() and path.stat().st_size > 0)
        path.rename(f"{path}.{number}")
        await cri.call(cri.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest(container_id=box))
        assert path.exists()

    await until(lambda: path.stat().st_size > 10_000)  # some hundred lines
    await cri.execute(box, "touch", "/stop")  # killed itself, perhaps, when its container ends at that
    await cri.exited(box)
    files = [*(Path(f"{path}.{number}") for number in range(8)), path]
    written = b"".join(log_contents(file)["stdout"] for file in files).split()
    assert len(written) > 100
    assert written == [b"%d" % number for number in range(len(written))]
    await cri.remove_pod(pod)


async def test_the_kernels_oom_kill_is_told_as_such(cri: Cri) -> None:
    pod = await cri.run_pod("oom")
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    box = await cri.run_container(pod, "sh", "-c", "tail -c 200000000 /dev/zero", resources=limits)
    status = await cri.exited(box, 20)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert status.finished_at >= status.started_at > 0
    await cri.remove_pod(pod)


async def test_a_stop_sends_the_stop_signal_and_gives_the_grace(cri: Cri) -> None:
    pod = await cri.run_pod("stopped")
    script = "trap 'exit 7' USR1; touch /ready; while :; do sleep 0.02; done"
    polite = await cri.run_container(pod, "sh", "-c", script, name="polite", stop_signal=SIGUSR1)
    stubborn = await cri.run_container(
        pod, "sh", "-c", "trap '' TERM; touch /ready; while :; do sleep 0.02; done", name="stubborn"
    )
    for box in (polite, stubborn):
        await cri.sh(box, "until [ -e /ready ]; do sleep 0.01; done", timeout=int(20 * PATIENCE))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await cri.stop_container(polite, grace=60)
    assert loop.time() - began < 30  # it is over long before its grace, on a busy machine too
    assert (await cri.status(polite)).exit_code == 7
    began = loop.time()
    await cri.stop_container(stubborn, grace=1)
    assert loop.time() - began > 0.9
    status = await cri.status(stubborn)
    assert (status.state, status.exit_code) == (pb.CONTAINER_EXITED, 137)
    await cri.stop_container(stubborn, grace=1)
    await cri.remove_pod(pod)


async def test_a_pod_that_shares_its_pids_has_catatonit_as_its_first_process(cri: Cri) -> None:
    shared = pb.NamespaceOption(pid=pb.POD)
    pod = await cri.run_pod("shared", namespaces=shared)
    one = await cri.run_container(pod, "sleep", "1000", name="one", namespaces=shared)
    two = await cri.run_container(pod, "sleep", "2000", name="two", namespaces=shared)
    for sleeping in ("sleep 1000", "sleep 2000"):  # a runtime's start is over before it has become that
        look = f"cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o '[s]{sleeping[1:]}' || true"
        assert await until(lambda look=look: cri.sh(two, look)) == sleeping
    assert "catatonit" in await cri.sh(one, "cat /proc/1/cmdline")
    await cri.stop_container(one)
    assert (await cri.status(two)).state == pb.CONTAINER_RUNNING
    await cri.remove_pod(pod)


async def test_a_pod_on_the_hosts_network_has_no_address_of_its_own(cri: Cri) -> None:
    options = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    pod = await cri.run_pod("host", namespaces=options, hostname="")
    box = await cri.run_container(pod, "sleep", "100", namespaces=options)
    assert (await cri.pod_status(pod)).network.ip == ""
    inside = set((await cri.sh(box, "ls /sys/class/net")).split())
    assert {"lo", *inside} <= {*os.listdir("/sys/class/net"), *inside}
    namespace = await cri.sh(box, "readlink /proc/self/ns/net")
    assert namespace == os.readlink("/proc/self/ns/net")
    assert await cri.sh(box, "hostname") == os.uname().nodename
    await cri.remove_pod(pod)


async def test_sysctls_are_set_in_the_pod_and_those_of_the_node_refused(cri: Cri) -> None:
    wanted = {"net.ipv4.ip_local_port_range": "20000 30000", "kernel.shm_rmid_forced": "1"}
    before = {name: Path(f"/proc/sys/{name.replace('.', '/')}").read_text() for name in wanted}
    pod = await cri.run_pod("tuned", sysctls=wanted)
    box = await cri.run_container(pod, "sleep", "100")
    assert (await cri.sh(box, "cat /proc/sys/net/ipv4/ip_local_port_range")).split() == ["20000", "30000"]
    assert await cri.sh(box, "cat /proc/sys/kernel/shm_rmid_forced") == "1"
    assert {name: Path(f"/proc/sys/{name.replace('.', '/')}").read_text() for name in wanted} == before
    for name, value in {"kernel.panic": "1", "vm.swappiness": "1", "net.ipv4.no_such": "1"}.items():
        with pytest.raises(InvalidRequest, match=re.escape(name)):
            await cri.run_pod("refused", sysctls={name: value})
    await cri.remove_pod(pod)


async def test_containers_share_a_directory_of_the_host(cri: Cri, cribd: Cribd) -> None:
    volume = cribd.logs / "volume"
    volume.mkdir(parents=True)
    pod = await cri.run_pod("volume")
    bind = pb.Mount(container_path="/data", host_path=str(volume))
    writer = await cri.run_container(pod, "sleep", "100", name="writer", mounts=[bind])
    bind.readonly = True
    reader = await cri.run_container(pod, "sleep", "100", name="reader", mounts=[bind])
    await cri.sh(writer, "echo kept >/data/file")
    assert await cri.sh(reader, "cat /data/file") == "kept"
    assert (await cri.execute(reader, "sh", "-c", "echo no >/data/file")).code != 0
    await cri.remove_pod(pod)
    assert (volume / "file").read_text() == "kept\n"


async def test_figures_grow_with_what_a_container_does(cri: Cri) -> None:
    pod = await cri.run_pod("figures")
    idle = await cri.run_container(pod, "sleep", "100", name="idle")
    busy = await cri.run_container(pod, "sleep", "100", name="busy")
    # a file on a tmpfs is memory that was touched and stays
    for file, size in (("/root/disk", 8), ("/dev/shm/memory", 24)):
        await cri.sh(busy, f"dd if=/dev/zero of={file} bs=1M count={size} conv=fsync")
    await cri.sh(busy, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    little, much = [
        (await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))).stats
        for box in (idle, busy)
    ]
    spent = much.cpu.usage_core_nano_seconds.value - little.cpu.usage_core_nano_seconds.value
    assert 20_000_000 < spent < 20_000_000_000
    assert much.memory.usage_bytes.value >= 24 << 20 > little.memory.usage_bytes.value
    assert much.memory.working_set_bytes.value <= much.memory.usage_bytes.value
    assert much.writable_layer.used_bytes.value >= 8 << 20 > little.writable_layer.used_bytes.value
    assert much.writable_layer.inodes_used.value > little.writable_layer.inodes_used.value
    pod_stats = (
        await cri.call(cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=pod.id))
    ).stats
    assert [figures.attributes.id for figures in pod_stats.linux.containers] == [idle, busy]
    assert pod_stats.linux.cpu.usage_core_nano_seconds.value >= much.cpu.usage_core_nano_seconds.value
    assert pod_stats.linux.memory.usage_bytes.value >= 24 << 20
    assert pod_stats.linux.network.default_interface.name == "eth0"
    told = {part.HasField("psi") for part in (much.cpu, much.memory, pod_stats.linux.cpu)}
    told |= {much.HasField("io"), pod_stats.linux.HasField("io")}
    assert told == {detect_layout().mode == "v2" and Path("/proc/pressure/cpu").exists()}
    await cri.remove_pod(pod)


async def test_swap_of_a_limited_container_is_told_with_what_is_left(cri: Cri) -> None:
    if not read_host_facts(detect_layout()).swap_accounting:
        pytest.skip("the kernel does not account swap here")
    pod = await cri.run_pod("swapping")
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20, memory_swap_limit_in_bytes=96 << 20)
    box = await cri.run_container(pod, "sleep", "100", resources=limits)
    reply = await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))
    swap = reply.stats.swap
    assert swap.timestamp > 0
    assert swap.swap_usage_bytes.value + swap.swap_available_bytes.value == 32 << 20
    without = await cri.run_container(pod, "sleep", "100", name="without")
    reply = await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=without))
    assert reply.stats.HasField("swap")
    assert not reply.stats.swap.HasField("swap_available_bytes")


async def test_a_client_that_subscribes_late_still_waits_rightly(cri: Cri) -> None:
    pod = await cri.run_pod("late")
    box = await cri.run_container(pod, "sh", "-c", "exit 42")
    status = await events.wait_exited(cri.connection, box, 20)
    assert (status.exit_code, status.reason) == (42, "Error")
    await cri.remove_pod(pod)
