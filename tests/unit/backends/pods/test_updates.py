"""Updates on trees of files: cgroup v2, and systemd with a bus that only says what it was told."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.environment import HandlerEnvironment
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.updates import Updates
from crib.host.cgroups import CgroupLayout, Cgroups
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState
from crib.model.errors import Broken, InvalidRequest, WrongState
from crib.model.ids import ContainerId, ImageId
from crib.model.paths import Paths
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import Resources
from crib.model.settings import Settings
from tests.unit.ocispec.inputs_for_tests import HANDLER, HOST, sandbox

MIB = 1 << 20
FILES = {
    "cpu.weight": "100",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.high": "max",
    "memory.low": "0",
    "memory.current": str(60 * MIB),
    "memory.stat": f"anon {20 * MIB}\nactive_file {25 * MIB}\ninactive_file {10 * MIB}\n",
    "hugetlb.2MB.max": "max",
    "hugetlb.2MB.rsvd.max": "max",
    "pids.max": "max",
    "cgroup.procs": "",
}
BUSCTL = """#!/bin/sh
echo "$@" >> {told}
if [ -e {refusal} ]; then cat {refusal} >&2; exit 1; fi
"""


class Busctl:
    """The first `busctl` on PATH, which says what it was told."""

    def __init__(self, directory: Path) -> None:
        self._told, self._refusal = directory / "told", directory / "refusal"
        program = directory / "busctl"
        program.write_text(BUSCTL.format(told=self._told, refusal=self._refusal))
        program.chmod(0o755)

    def refuse(self, words: str) -> None:
        self._refusal.write_text(words)

    def told(self) -> list[str]:
        return self._told.read_text().splitlines()


@pytest.fixture
def busctl(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Busctl:
    directory = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Busctl(directory)


class Tree(Cgroups):
    """Plain files keep what a shorter value does not overwrite; the kernel's do not."""

    def write(self, path: str, key: str, value: str) -> None:
        Path(self._file(path, key)).write_text(value)


class World:
    """A container's cgroup of version 2 in a directory, and its bundle."""

    def __init__(self, top: Path, driver: str = "cgroupfs", systemd: int = 252) -> None:
        self.environment = HandlerEnvironment(
            facts=replace(HANDLER, systemd=systemd),
            settings=Settings(cgroup_driver=driver),
            paths=Paths(data=str(top / "data"), state=str(top / "run")),
            host=replace(HOST, cgroup_layout="v2"),
            cgroups=Tree(CgroupLayout("v2", {}, str(top / "cg"), frozenset({"cpu", "memory"}))),
        )
        self.record = ContainerRecord(
            id=ContainerId("c" * 64),
            sandbox_id=sandbox().id,
            config=ContainerConfig("box", "busybox"),
            state=ContainerState.RUNNING,
            created_at=0,
            image_id=ImageId("sha256:" + "a" * 64),
            image_ref="busybox",
            layers=(),
        )
        names = CgroupNames.of(self.environment.settings)
        self.pod = names.own_pod(sandbox().id)
        self.path = names.below(self.pod, self.record.id)
        bundles = Bundles(self.environment.paths)
        bundles.make(self.record.id, BundleNote("crun", self.path))
        for cgroup in (self.pod, self.path):
            directory = Path(f"{top}/cg{cgroup}")
            directory.mkdir(parents=True, exist_ok=True)
            for key, value in FILES.items():
                (directory / key).write_text(f"{value}\n")
        self.updates = Updates(self.environment, bundles)

    def content(self, path: str = "") -> dict[str, str]:
        """What differs from the beginning."""
        now = {key: self.environment.cgroups.read(path or self.path, key).strip() for key in FILES}
        return {key: value for key, value in now.items() if value != FILES[key].strip()}


async def test_limits_beyond_the_cri_are_written_and_what_cannot_be_is_refused_by_name(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    wanted = Resources(cpuset_cpus="0", beyond=ResourceChange(pids_limit=9, memory_reservation=4096))
    await world.updates.container(world.record, wanted)
    assert world.content() == {"cpuset.cpus": "0", "pids.max": "9", "memory.low": "4096"}
    odd = Resources(beyond=ResourceChange(memory_swappiness=5))
    with pytest.raises(InvalidRequest, match="memory_swappiness"):
        await world.updates.container(world.record, odd)


async def test_version_2_gets_its_own_files_and_what_is_unchanged_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    wanted = Resources(
        cpu_shares=512,
        cpu_quota=50_000,
        cpuset_cpus="0-1",
        memory_limit_in_bytes=64 * MIB,
        memory_swap_limit_in_bytes=80 * MIB,
        hugepage_limits={"2MB": 4 * MIB},
        unified={"memory.high": "1000", "pids.max": "9"},
    )
    await world.updates.container(world.record, wanted)
    assert world.content() == {
        "cpu.weight": "59",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0-1",
        "memory.max": str(64 * MIB),
        "memory.swap.max": str(16 * MIB),
        "hugetlb.2MB.max": str(4 * MIB),
        "hugetlb.2MB.rsvd.max": str(4 * MIB),
        "memory.high": "1000",
        "pids.max": "9",
    }
    world.environment.cgroups.write(world.path, "cpu.weight", "5")  # by somebody else
    await world.updates.container(replace(world.record, resources=wanted), replace(wanted, cpuset_cpus="0"))
    assert world.content()["cpu.weight"] == "5"
    assert world.content()["cpuset.cpus"] == "0"


async def test_version_2_would_kill_so_a_limit_below_what_is_in_use_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.updates.container(world.record, Resources(memory_limit_in_bytes=30 * MIB))
    assert world.content()["memory.max"] == str(30 * MIB)
    for wanted in (
        Resources(memory_limit_in_bytes=20 * MIB, cpu_shares=2),
        Resources(unified={"memory.max": str(20 * MIB), "cpu.weight": "1"}),
    ):
        with pytest.raises(WrongState, match="bytes are in use"):
            await world.updates.container(world.record, wanted)
    assert world.content() == {"memory.max": str(30 * MIB), "memory.swap.max": "0"}


async def test_a_file_that_the_kernel_does_not_have_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(InvalidRequest, match=r"^unified\['memory\.nothing'\]: update of container"):
        await world.updates.container(
            world.record, Resources(cpu_shares=512, unified={"memory.nothing": "1"})
        )
    assert world.content() == {}


async def test_without_a_bundle_or_with_wrong_limits_nothing_is_tried(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(WrongState, match="no bundle"):
        await world.updates.container(replace(world.record, id=ContainerId("d" * 64)), Resources())
    with pytest.raises(InvalidRequest, match=r"^unified"):
        await world.updates.container(world.record, Resources(unified={"cgroup.kill": "1"}))
    assert world.content() == {}


async def test_systemd_is_told_every_limit_and_not_only_the_one_that_changed(
    tmp_path: Path, busctl: Busctl
) -> None:
    world = World(tmp_path, "systemd")
    before = Resources(cpu_shares=512, unified={"memory.high": "1000"})
    wanted = replace(before, memory_limit_in_bytes=64 * MIB, hugepage_limits={"2MB": 4 * MIB})
    await world.updates.container(replace(world.record, resources=before), wanted)
    assert world.content() == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "hugetlb.2MB.max": str(4 * MIB),
        "hugetlb.2MB.rsvd.max": str(4 * MIB),
    }
    (told,) = busctl.told()
    assert told.partition("SetUnitProperties ")[2] == (
        f"sba(sv) crib-{world.record.id}.scope true 4 CPUWeight t 59 MemoryHigh t 1000"
        f" MemoryMax t {64 * MIB} MemorySwapMax t 0"
    )
    await world.updates.container(replace(world.record, resources=wanted), replace(wanted, oom_score_adj=5))
    assert len(busctl.told()) == 1
    with pytest.raises(WrongState, match="in use"):
        await world.updates.container(world.record, Resources(memory_limit_in_bytes=MIB))
    with pytest.raises(InvalidRequest, match="nothing"):
        await world.updates.container(world.record, Resources(unified={"memory.nothing": "1"}))
    assert len(busctl.told()) == 1


async def test_systemd_is_told_a_new_containers_cpus(tmp_path: Path, busctl: Busctl) -> None:
    world = World(tmp_path, "systemd")
    config = replace(world.record.config, resources=Resources(cpu_shares=2, cpuset_cpus="1-2"))
    await world.updates.created(replace(world.record, config=config))
    (told,) = busctl.told()
    assert told.endswith(f"crib-{world.record.id}.scope true 1 AllowedCPUs ay 1 6")
    await world.updates.created(world.record)
    assert len(busctl.told()) == 1


async def test_what_a_scope_is_made_with_alone_is_refused_later(tmp_path: Path, busctl: Busctl) -> None:
    world = World(tmp_path, "systemd", systemd=257)
    wanted = Resources(unified={"memory.oom.group": "1"})
    with pytest.raises(InvalidRequest, match=r"^unified\['memory\.oom\.group'\]: .* not later"):
        await world.updates.container(world.record, wanted)
    wanted = replace(wanted, cpu_shares=512)
    before = replace(world.record, resources=Resources(unified={"memory.oom.group": "1"}))
    await world.updates.container(before, wanted)
    assert len(busctl.told()) == 1


async def test_cpus_that_were_all_are_all_again(tmp_path: Path, busctl: Busctl) -> None:
    """An empty set cannot be written where there are processes."""
    world = World(tmp_path, "systemd")
    (tmp_path / f"cg{world.pod}" / "cpuset.cpus.effective").write_text("0-3\n")
    busctl.refuse("no")
    with pytest.raises(Broken):
        await world.updates.container(world.record, Resources(cpuset_cpus="1", cpu_shares=512))
    assert world.content() == {"cpuset.cpus": "0-3"}


async def test_what_systemd_refuses_is_taken_back_in_the_files(tmp_path: Path, busctl: Busctl) -> None:
    world = World(tmp_path, "systemd")
    busctl.refuse("Unit crib.scope not found.")
    wanted = Resources(cpu_shares=512, memory_limit_in_bytes=64 * MIB, unified={"pids.max": "9"})
    with pytest.raises(Broken, match=r"^limits of crib-c+\.scope: .*not found"):
        await world.updates.container(world.record, wanted)
    assert world.content() == {}


async def test_a_pods_own_slice_is_told_too(tmp_path: Path, busctl: Busctl) -> None:
    world = World(tmp_path, "systemd")
    record = replace(sandbox(), resources=Resources(cpu_shares=512, unified={"hugetlb.2MB.max": "0"}))
    await world.updates.pod(record)
    assert world.content(world.pod) == {
        "cpu.weight": "59",
        "hugetlb.2MB.max": "0",
        "hugetlb.2MB.rsvd.max": "0",
    }
    (told,) = busctl.told()
    assert told.endswith(f"crib-{sandbox().id}.slice true 1 CPUWeight t 59")


async def test_a_pods_own_cgroup_is_limited_and_a_clients_is_not(tmp_path: Path) -> None:
    world = World(tmp_path)
    resources = Resources(cpu_shares=488, memory_limit_in_bytes=64 * MIB)
    record = replace(sandbox(), resources=resources, overhead=Resources(cpu_shares=24))
    await world.updates.pod(record)
    assert world.content(world.pod) == {"cpu.weight": "59", "memory.max": str(64 * MIB)}
    named = replace(record, config=replace(record.config, cgroup_parent="/elsewhere"))
    await world.updates.pod(named)
    with pytest.raises(InvalidRequest, match=r"^cpuset_cpus"):
        await world.updates.pod(replace(record, resources=Resources(cpuset_cpus="x")))
