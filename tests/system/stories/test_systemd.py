"""Stories of the systemd cgroup driver on cgroup v2: what systemd knows, what it takes away, what is told.

They need a machine with systemd, such as a guest of script/guest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.backends.pods.cgroup_names import CgroupNames
from crib.client import pods
from crib.client.errors import ClientError, TimedOut, WrongState
from crib.client.pods import Pod
from crib.ocispec.unit_properties import OOM_POLICY
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import BuiltImage, Entry, busybox_image
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd, shim_table, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(
        not Path("/run/systemd/system").exists() or not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        reason="needs systemd and cgroup v2",
    ),
]

MIB = 1 << 20
ENOUGH_TO_START = 32 * MIB
"""For runc, whose first process is Go before it is the container's."""
ANNOTATIONS = 'annotations = ["io.crib.*"]\n'
HAS_SHIM = shutil.which("containerd-shim-runc-v2") is not None
SETTINGS = (
    f"pids_limit = 200\n[handlers.crun]\n{ANNOTATIONS}[handlers.runc]\n{ANNOTATIONS}"
    f"{shim_table() if HAS_SHIM else ''}"
)
WITH_MONITORS = ["crun", "runc"]
HANDLERS = [*WITH_MONITORS, pytest.param("shim", marks=pytest.mark.skipif(not HAS_SHIM, reason="no shim"))]
DISKS = [path for path in Path("/sys/block").glob("*") if Path("/dev", path.name).is_block_device()]
INIT_IMAGE = "docker.io/library/init:test"
UNITS = {
    "default.target": "[Unit]\nRequires=hello.service\n",
    "hello.service": "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 600\n",
    "halt.target": "[Unit]\nDefaultDependencies=no\nRequires=halt.service\nAfter=halt.service\n",
    "halt.service": "[Unit]\nDefaultDependencies=no\nSuccessAction=exit-force\n"
    "[Service]\nType=oneshot\nExecStart=/bin/true\n",
}


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    built = (busybox_image(name=IMAGE), init_image())
    with running_cribd(extra=SETTINGS, systemd=True, built=built) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def init_image() -> BuiltImage:
    """busybox, and this machine's systemd with a service and a way to end."""
    programs = [path for path in Path("/usr/lib/systemd").glob("systemd*") if path.name in _PROGRAMS]
    entries = [_file(path) for path in programs]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    entries += [_file(Path(path)) for path in sorted(set(re.findall(r"(/\S+\.so\S*) \(", linked)))]
    units = {f"usr/lib/systemd/system/{name}": text for name, text in UNITS.items()}
    units["etc/systemd/system.conf"] = "[Manager]\nDefaultStandardOutput=null\n"
    entries += [Entry(name, data=text.encode(), mode=0o644) for name, text in units.items()]
    entries.append(Entry("sbin/init", kind=tarfile.SYMTYPE, link="/usr/lib/systemd/systemd"))
    return busybox_image(entries, name=INIT_IMAGE, Cmd=["/sbin/init"])


_PROGRAMS = ("systemd", "systemd-executor", "systemd-shutdown")


def _file(path: Path) -> Entry:
    return Entry(str(path).lstrip("/"), data=path.read_bytes(), mode=0o755)


class Unit:
    """A scope or slice, as the kernel and systemd have it."""

    def __init__(self, cgroup: str) -> None:
        self.path = Path("/sys/fs/cgroup" + cgroup)

    def __getitem__(self, key: str) -> str:
        return (self.path / key).read_text().strip()

    def figure(self, file: str, key: str = "") -> int:
        """A line of a file; without a key its only number."""
        return int(dict(line.split() for line in self[file].splitlines())[key] if key else self[file])

    def stalled(self, file: str) -> int:
        """Nanoseconds in which a task waited; the file has microseconds (kernel, accounting/psi)."""
        return 1000 * int(self[file].splitlines()[0].rpartition("total=")[2])

    def files(self, *keys: str) -> dict[str, str]:
        return {key: self[key] for key in keys}

    def set_property(self, assignment: str) -> None:
        subprocess.run(["systemctl", "set-property", "--runtime", self.path.name, assignment], check=True)


class Scope(Unit):
    """A container's, below its pod's slice."""

    def __init__(self, cri: Cri, pod: Pod, container: str) -> None:
        names = CgroupNames(cri.cribd.cgroup, systemd=True)
        self.slice = Unit(names.own_pod(pod.id))
        super().__init__(names.below(names.own_pod(pod.id), container))


def reload() -> None:
    subprocess.run(["systemctl", "daemon-reload"], check=True)


def limits(**fields: object) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(**fields)  # type: ignore[arg-type]  # protobuf's own types


async def run_pod(cri: Cri, handler: str, **linux: object) -> Pod:
    config = cri.pod_config("scopes")
    config.linux.MergeFrom(pb.LinuxPodSandboxConfig(**linux))  # type: ignore[arg-type]  # as above
    return await pods.run_sandbox(cri.connection, config, handler)


async def update(cri: Cri, container: str, **fields: object) -> None:
    request = pb.UpdateContainerResourcesRequest(container_id=container, linux=limits(**fields))
    await cri.call(cri.runtime.UpdateContainerResources, request)


def _version() -> int:
    """Of systemd; 0 without."""
    if shutil.which("systemctl") is None:
        return 0
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split()[1])


FIRST = {
    "cpu.weight": "59",
    "cpu.max": "20000 50000",
    "cpuset.cpus": "0",
    "cpuset.mems": "0",
    "memory.max": str(64 * MIB),
    "memory.swap.max": str(16 * MIB),
    "memory.high": str(48 * MIB),
    "memory.low": str(8 * MIB),
    "memory.min": str(4 * MIB),
    "memory.oom.group": "1",
    "hugetlb.2MB.max": str(4 * MIB),
    "pids.max": "40",
}
if _version() < OOM_POLICY:
    del FIRST["memory.oom.group"]  # no property of such a scope keeps it


@pytest.mark.parametrize("handler", HANDLERS)
async def test_limits_outlive_a_reload_of_systemd(cri: Cri, handler: str) -> None:
    """Every upgrade of a package does one."""
    pod = await run_pod(cri, handler)
    first = limits(
        cpu_shares=512,
        cpu_quota=20_000,
        cpu_period=50_000,
        cpuset_cpus="0",
        cpuset_mems="0",
        memory_limit_in_bytes=64 * MIB,
        memory_swap_limit_in_bytes=80 * MIB,
        hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4 * MIB)],
        unified={
            "memory.high": str(48 * MIB),
            "memory.low": str(8 * MIB),
            "memory.min": str(4 * MIB),
            "memory.oom.group": "1",
            "pids.max": "40",
        },
    )
    box = await cri.run_container(pod, "sleep", "600", resources=first)
    scope = Scope(cri, pod, box)
    assert scope.files(*FIRST) == FIRST
    reload()
    assert scope.files(*FIRST) == FIRST
    await update(cri, box, memory_limit_in_bytes=96 * MIB, cpu_quota=-1, unified={"pids.max": "50"})
    then = {**FIRST, "memory.max": str(96 * MIB), "cpu.max": "max 100000", "pids.max": "50"}
    assert scope.files(*FIRST) == then
    reload()
    assert scope.files(*FIRST) == then
    scope.set_property("CPUWeight=70")
    assert scope.files(*FIRST) == {**then, "cpu.weight": "70"}


@pytest.mark.skipif(not DISKS, reason="no block device is here")
@pytest.mark.parametrize("handler", HANDLERS)
async def test_io_limits_outlive_a_reload_of_systemd(cri: Cri, handler: str) -> None:
    device = (DISKS[0] / "dev").read_text().strip()
    unified = {"io.weight": "default 200", "io.max": f"{device} rbps=20000000 wiops=max"}
    pod = await run_pod(cri, handler)
    box = await cri.run_container(pod, "sleep", "600", resources=limits(unified=unified))
    scope = Scope(cri, pod, box)
    first = {"io.weight": "default 200", "io.max": f"{device} rbps=20000000 wbps=max riops=max wiops=max"}
    assert scope.files(*first) == first
    reload()
    assert scope.files(*first) == first
    await update(cri, box, unified={"io.weight": "300"})
    reload()
    assert scope.files(*first) == {**first, "io.weight": "default 300"}


@pytest.mark.parametrize("handler", HANDLERS)
async def test_figures_are_those_of_the_scope_and_of_the_pods_slice(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    script = "head -c 20000000 /dev/zero > /dev/shm/held; exec sleep 600"
    box = await cri.run_container(pod, "sh", "-c", script, resources=limits(memory_limit_in_bytes=64 * MIB))
    scope = Scope(cri, pod, box)
    await until(lambda: scope.figure("memory.current") >= 20_000_000 and scope.figure("pids.current") == 1)
    waited = {"cpu": "cpu.pressure", "memory": "memory.pressure", "io": "io.pressure"}

    def counters() -> list[int]:
        """They only grow."""
        spent = [1000 * part.figure("cpu.stat", "usage_usec") for part in (scope, scope.slice)]
        return spent + [scope.stalled(name) for name in waited.values()]

    before = counters()
    one = (await cri.call(cri.runtime.ContainerStats, pb.ContainerStatsRequest(container_id=box))).stats
    all_ = (
        await cri.call(cri.runtime.PodSandboxStats, pb.PodSandboxStatsRequest(pod_sandbox_id=pod.id))
    ).stats.linux
    after = counters()
    told = [part.cpu.usage_core_nano_seconds.value for part in (one, all_)]
    told += [getattr(one, name).psi.Some.Total for name in waited]
    assert all(low <= value <= high for low, value, high in zip(before, told, after, strict=True)), (
        before,
        told,
        after,
    )
    assert 20_000_000 <= one.memory.usage_bytes.value <= 64 * MIB
    assert one.memory.working_set_bytes.value + one.memory.available_bytes.value == 64 * MIB
    assert all_.memory.usage_bytes.value >= one.memory.usage_bytes.value
    assert all_.process.process_count.value == scope.slice.figure("pids.current") == 1


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_container_sees_its_own_cgroup_as_the_root_and_no_other(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    box = await cri.run_container(pod, "sleep", "600", resources=limits(memory_limit_in_bytes=64 * MIB))
    assert await cri.sh(box, "cat /proc/1/cgroup") == "0::/"
    assert await cri.sh(box, "cat /sys/fs/cgroup/memory.max") == str(64 * MIB)
    below = await cri.sh(box, "find /sys/fs/cgroup -mindepth 1 -type d")
    assert all(path.startswith("/sys/fs/cgroup/exec-") for path in below.split()), "but this command's own"


@pytest.mark.parametrize("handler", HANDLERS)
async def test_an_update_that_is_refused_changes_nothing(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    box = await cri.run_container(
        pod, "sleep", "600", resources=limits(cpu_shares=100, memory_limit_in_bytes=64 * MIB)
    )
    scope = Scope(cri, pod, box)
    keys = ("cpu.weight", "memory.max", "memory.swap.max", "memory.high", "cpuset.cpus")
    before = scope.files(*keys)
    with pytest.raises(ClientError, match=r"memory\.high"):
        await update(
            cri, box, cpu_shares=200, memory_limit_in_bytes=32 * MIB, unified={"memory.high": "much"}
        )
    with pytest.raises(ClientError, match=r"memory\.nothing"):
        await update(cri, box, cpu_shares=200, cpuset_cpus="0", unified={"memory.nothing": "1"})
    assert scope.files(*keys) == before
    reload()
    assert scope.files(*keys) == before


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_container_without_memory_is_told_as_such_each_time(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    neighbour = await cri.run_container(pod, "sleep", "600", name="neighbour")
    small = limits(memory_limit_in_bytes=ENOUGH_TO_START)
    for attempt in range(4):
        box = await cri.run_container(
            pod, "sh", "-c", "tail /dev/zero", name=f"box{attempt}", resources=small
        )
        status = await cri.exited(box)
        assert (status.reason, status.exit_code) == ("OOMKilled", 137)
        await cri.remove_container(box)
    await cri.stop_container(neighbour)
    assert (await cri.status(neighbour)).reason == "Error"


@pytest.mark.parametrize("handler", WITH_MONITORS)
async def test_who_ran_out_of_memory_is_reported_across_a_restart_and_nobody_else_is(
    handler: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    small = limits(memory_limit_in_bytes=ENOUGH_TO_START)
    begin = [pb.Mount(container_path="/begin", host_path=str(tmp_path), readonly=True)]
    hungry = "until [ -e /begin/{} ]; do sleep 0.1; done; exec tail /dev/zero"

    with running_cribd(extra=SETTINGS, systemd=True) as cribd:
        async with cribd.story() as cri:
            pod = await run_pod(cri, handler)
            boxes = {
                name: await cri.run_container(
                    pod, "sh", "-c", hungry.format(when), name=name, resources=small, mounts=begin
                )
                for name, when in (("early", "early"), ("one", "late"), ("other", "late"))
            }
            idle = await cri.run_container(pod, "sleep", "600", name="idle")
            (tmp_path / "early").touch()
            assert (await cri.exited(boxes["early"])).reason == "OOMKilled"
            cribd.kill()
            (tmp_path / "late").touch()
            await until(lambda: all((cribd.state / "exits" / box).exists() for box in boxes.values()))
            cribd.start()
            async with cribd.connect() as again:
                for box in boxes.values():
                    status = await again.exited(box)
                    assert (status.reason, status.exit_code) == ("OOMKilled", 137)
                await again.stop_container(idle)
                status = await again.status(idle)
                assert (status.reason, status.exit_code) == ("Error", 137)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_command_that_takes_too_long_ends_and_the_scope_stays_a_domain(
    cri: Cri, handler: str
) -> None:
    pod = await run_pod(cri, handler)
    box = await cri.run_container(pod, "sleep", "600")
    scope = Scope(cri, pod, box)
    assert await cri.sh(box, "echo here") == "here"
    with pytest.raises(TimedOut):
        await cri.execute(box, "sh", "-c", "setsid sleep 601 & sleep 602", timeout=1)
    assert scope["cgroup.type"] == "domain"
    assert [path.name for path in scope.path.iterdir() if path.is_dir()] == []
    assert len(scope["cgroup.procs"].split()) == 1


@pytest.mark.parametrize("handler", HANDLERS)
async def test_devices_stay_refused_after_a_reload(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    box = await cri.run_container(pod, "sleep", "600")
    look = "mknod /tmp/kmsg c 1 11 2>/dev/null; head -c 1 /tmp/kmsg"
    assert "not permitted" in (await cri.execute(box, "sh", "-c", look)).err
    reload()
    assert "not permitted" in (await cri.execute(box, "sh", "-c", look)).err
    assert await cri.sh(box, "head -c 1 /dev/zero | wc -c") == "1"


async def test_a_pods_own_slice_has_limits_that_outlive_a_reload(cri: Cri) -> None:
    pod = await run_pod(cri, "crun", resources=limits(cpu_shares=512, memory_limit_in_bytes=64 * MIB))
    names = CgroupNames(cri.cribd.cgroup, systemd=True)
    slice_ = Path("/sys/fs/cgroup" + names.own_pod(pod.id))
    request = pb.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod.id,
        resources=limits(cpu_shares=1024, memory_limit_in_bytes=96 * MIB, unified={"memory.high": "9000000"}),
    )
    keys = ("cpu.weight", "memory.max", "memory.high")

    def found() -> list[str]:
        return [(slice_ / key).read_text().strip() for key in keys]

    assert found() == ["59", str(64 * MIB), "max"]
    await cri.call(cri.runtime.UpdatePodSandboxResources, request)
    then = ["100", str(96 * MIB), "8998912"]
    assert found() == then
    reload()
    assert found() == then


async def test_a_limit_below_what_is_in_use_is_refused(cri: Cri) -> None:
    pod = await run_pod(cri, "crun")
    fill = "head -c 40000000 /dev/zero > /dev/shm/full; sleep 600"
    box = await cri.run_container(pod, "sh", "-c", fill, resources=limits(memory_limit_in_bytes=128 * MIB))
    scope = Scope(cri, pod, box)
    while int(scope["memory.current"]) < 40_000_000:
        await cri.status(box)
    with pytest.raises(WrongState, match="bytes are in use"):
        await update(cri, box, memory_limit_in_bytes=8 * MIB)
    assert scope["memory.max"] == str(128 * MIB)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_systemd_runs_in_a_container_and_ends_when_it_is_told(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    box = await cri.run_container(pod, image=INIT_IMAGE, resources=limits(memory_limit_in_bytes=256 * MIB))
    service = "/sys/fs/cgroup/system.slice/hello.service"

    async def serves() -> bool:
        return (await cri.execute(box, "grep", ".", f"{service}/cgroup.procs")).code == 0

    await until(serves)
    assert await cri.sh(box, "cat /proc/1/comm") == "systemd"
    mounted = await cri.sh(box, "grep -E ' (/run|/run/lock|/tmp) ' /proc/mounts")
    assert [line.split()[1:3] for line in mounted.splitlines()] == [
        ["/run", "tmpfs"],
        ["/tmp", "tmpfs"],
        ["/run/lock", "tmpfs"],
    ]
    raised = await cri.execute(box, "sh", "-c", "echo max > /sys/fs/cgroup/memory.max")
    assert raised.code != 0
    assert Scope(cri, pod, box)["memory.max"] == str(256 * MIB)
    await cri.stop_container(box, 60)
    assert (await cri.status(box)).exit_code == 0


async def test_a_pod_may_be_let_make_cgroups_of_its_own(cri: Cri) -> None:
    config = cri.pod_config("makes-cgroups")
    pod = await pods.run_sandbox(cri.connection, config)
    script = "mkdir /sys/fs/cgroup/own && echo $$ > /sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup"
    plain = await cri.run_container(pod, "sleep", "600", name="plain")
    assert "Read-only" in (await cri.execute(plain, "sh", "-c", script)).err
    allowed = {"io.crib.writable-cgroups": "true"}
    writer = await cri.run_container(pod, "sleep", "600", name="writer", annotations=allowed)
    assert (await cri.sh(writer, script)).endswith("/own")
    stays = "sleep 601 >/dev/null 2>&1 & echo $! > /sys/fs/cgroup/own/cgroup.procs"
    await cri.sh(writer, stays)
    reload()  # the scope is delegated: systemd leaves alone what is below
    assert await cri.sh(writer, "grep -c . /sys/fs/cgroup/own/cgroup.procs") == "1"
