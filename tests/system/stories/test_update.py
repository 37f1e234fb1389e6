"""Other limits for what runs: looked up in the kernel's own files, with crun and with runc."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.backends.environment import POD_MEMORY
from crib.client import lookup, manifests, pods, resizing
from crib.client.errors import ClientError, InvalidRequest, NotFound, WrongState
from crib.client.pods import Pod
from crib.client.workloads.differences import differences
from crib.client.workloads.generating import manifest_of
from crib.client.workloads.site import read_site
from crib.host.cgroups import Cgroups, detect_layout
from crib.manifest.plan import Dirs
from crib.ocispec.limits import cpu_weight
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.patience import PATIENCE
from tests.system.labs.daemon import IMAGE, Cri, Cribd, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

MIB = 1 << 20
SETTINGS = "pids_limit = 200\n[handlers.crun]\n[handlers.runc]\n"
V2 = detect_layout().mode == "v2"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra=SETTINGS) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture
def of_its_own() -> Iterator[Cribd]:
    """For a story that ends the daemon."""
    with running_cribd() as daemon:
        yield daemon


def limits(**fields: object) -> pb.LinuxContainerResources:
    return pb.LinuxContainerResources(**fields)  # type: ignore[arg-type]  # protobuf's own types


async def update(cri: Cri, container: str, **fields: object) -> None:
    request = pb.UpdateContainerResourcesRequest(container_id=container, linux=limits(**fields))
    await cri.call(cri.runtime.UpdateContainerResources, request)


async def update_pod(cri: Cri, pod: Pod, **parts: pb.LinuxContainerResources) -> None:
    request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod.id, **parts)
    await cri.call(cri.runtime.UpdatePodSandboxResources, request)


async def shown(cri: Cri, container: str) -> pb.LinuxContainerResources:
    return (await cri.status(container)).resources.linux


class Files:
    """A cgroup's files, as the kernel has them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._cgroups = Cgroups(detect_layout())

    def __getitem__(self, key: str) -> str:
        return self._cgroups.read(self._path, key).strip()

    @property
    def memory(self) -> tuple[int, int]:
        """The limit of memory, and of memory and swap together."""
        if not V2:
            return int(self["memory.limit_in_bytes"]), int(self["memory.memsw.limit_in_bytes"])
        limit, swap = (_bytes(self[key]) for key in ("memory.max", "memory.swap.max"))
        return limit, limit + swap

    @property
    def weight(self) -> int:
        """Of version 2."""
        return int(self["cpu.weight"]) if V2 else cpu_weight(int(self["cpu.shares"]))

    @property
    def quota(self) -> tuple[int, int]:
        """Quota and period."""
        if not V2:
            return int(self["cpu.cfs_quota_us"]), int(self["cpu.cfs_period_us"])
        quota, period = self["cpu.max"].split()
        return -1 if quota == "max" else int(quota), int(period)

    @property
    def scores(self) -> set[int]:
        pids = self._cgroups.pids(self._path)
        return {int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids}


def _bytes(text: str) -> int:
    return 1 << 62 if text == "max" else int(text)


def of(cri: Cri, pod: Pod, container: str = "") -> Files:
    return Files("/".join(filter(None, (cri.cribd.cgroup, pod.id, container))))


async def run_pod(cri: Cri, handler: str = "", **linux: object) -> Pod:
    config = cri.pod_config("limits")
    config.linux.MergeFrom(pb.LinuxPodSandboxConfig(**linux))  # type: ignore[arg-type]  # as above
    return await pods.run_sandbox(cri.connection, config, handler)


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_every_limit_of_a_running_container_can_be_changed(cri: Cri, handler: str) -> None:
    pod = await run_pod(cri, handler)
    first = limits(cpu_shares=512, memory_limit_in_bytes=64 * MIB, oom_score_adj=100)
    box = await cri.run_container(pod, "sleep", "600", resources=first)
    files = of(cri, pod, box)
    assert files.memory == (64 * MIB, 64 * MIB)
    await update(
        cri,
        box,
        cpu_shares=256,
        cpu_quota=20_000,
        cpu_period=50_000,
        cpuset_cpus="0",
        cpuset_mems="0",
        memory_limit_in_bytes=128 * MIB,
        memory_swap_limit_in_bytes=160 * MIB,
        oom_score_adj=300,
        hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=4 * MIB)],
        unified={"pids.max": "50"},
    )
    assert files.memory == (128 * MIB, 160 * MIB)
    assert (files.weight, files.quota) == (cpu_weight(256), (20_000, 50_000))
    assert (files["cpuset.cpus"], files["cpuset.mems"], files["pids.max"]) == ("0", "0", "50")
    assert files["hugetlb.2MB.max" if V2 else "hugetlb.2MB.limit_in_bytes"] == str(4 * MIB)
    assert files.scores == {300}
    found = await shown(cri, box)
    assert (found.cpu_shares, found.memory_limit_in_bytes, found.memory_swap_limit_in_bytes) == (
        256,
        128 * MIB,
        160 * MIB,
    )
    assert (found.cpuset_cpus, found.oom_score_adj, dict(found.unified)) == ("0", 300, {"pids.max": "50"})


async def test_what_an_update_does_not_name_stays_as_it_is(cri: Cri) -> None:
    pod = await run_pod(cri)
    first = limits(cpu_shares=512, memory_limit_in_bytes=64 * MIB, oom_score_adj=100)
    box = await cri.run_container(pod, "sleep", "600", resources=first)
    await update(cri, box, cpuset_cpus="0")
    files = of(cri, pod, box)
    assert files.memory == (64 * MIB, 64 * MIB)
    assert (files.weight, files["cpuset.cpus"], files.scores) == (cpu_weight(512), "0", {100})
    assert await shown(cri, box) == limits(
        cpu_shares=512, memory_limit_in_bytes=64 * MIB, oom_score_adj=100, cpuset_cpus="0"
    )


async def test_memory_and_swap_go_up_and_down_together(cri: Cri) -> None:
    pod = await run_pod(cri)
    box = await cri.run_container(pod, "sleep", "600", resources=limits(memory_limit_in_bytes=64 * MIB))
    files = of(cri, pod, box)
    for memory, swap, then in (
        (128, 0, (128, 128)),
        (32, 0, (32, 32)),
        (32, 48, (32, 48)),
        (96, 0, (96, 112)),
        (16, 16, (16, 16)),
    ):
        await update(cri, box, memory_limit_in_bytes=memory * MIB, memory_swap_limit_in_bytes=swap * MIB)
        assert files.memory == tuple(value * MIB for value in then)
    await update(cri, box, memory_limit_in_bytes=-1, memory_swap_limit_in_bytes=-1)
    assert min(files.memory) > 1 << 60


async def test_a_limit_below_what_is_in_use_is_refused_and_changes_nothing(cri: Cri) -> None:
    pod = await run_pod(cri)
    fill = "head -c 40000000 /dev/zero > /dev/shm/full; echo done > /tmp/done; sleep 600"
    box = await cri.run_container(
        pod, "sh", "-c", fill, resources=limits(memory_limit_in_bytes=128 * MIB, cpu_shares=100)
    )

    async def is_full() -> bool:
        return (await cri.execute(box, "cat", "/tmp/done")).code == 0

    await until(is_full)
    files = of(cri, pod, box)
    with pytest.raises(WrongState, match="bytes are in use"):
        await update(cri, box, memory_limit_in_bytes=8 * MIB, cpu_shares=200)
    assert files.memory == (128 * MIB, 128 * MIB)
    assert files.weight == cpu_weight(100)
    assert (await shown(cri, box)).memory_limit_in_bytes == 128 * MIB
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING


async def test_the_page_cache_makes_room_for_a_lower_limit(cri: Cri) -> None:
    pod = await run_pod(cri)
    # Of this file alone: the machine's other files may be many.
    write = "dd if=/dev/zero of=/tmp/file bs=1M count=60 conv=fsync; echo done > /tmp/done; sleep 600"
    box = await cri.run_container(pod, "sh", "-c", write, resources=limits(memory_limit_in_bytes=128 * MIB))

    async def is_written() -> bool:
        return (await cri.execute(box, "cat", "/tmp/done")).code == 0

    await until(is_written, 60)
    await update(cri, box, memory_limit_in_bytes=16 * MIB)
    assert of(cri, pod, box).memory == (16 * MIB, 16 * MIB)


async def test_when_one_limit_is_refused_by_the_kernel_none_is_changed(cri: Cri) -> None:
    pod = await run_pod(cri)
    box = await cri.run_container(
        pod, "sleep", "600", resources=limits(cpu_shares=100, memory_limit_in_bytes=64 * MIB)
    )
    with pytest.raises(ClientError, match=r"cpuset\.cpus"):
        await update(cri, box, cpu_shares=200, memory_limit_in_bytes=32 * MIB, cpuset_cpus="4000")
    files = of(cri, pod, box)
    assert (files.weight, files.memory) == (cpu_weight(100), (64 * MIB, 64 * MIB))
    assert (await shown(cri, box)).cpu_shares == 100


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("linux.cpuset_cpus", {"cpuset_cpus": "0;1"}),
        ("linux.oom_score_adj", {"oom_score_adj": 1001}),
        ("linux.memory_swap_limit_in_bytes", {"memory_limit_in_bytes": 9, "memory_swap_limit_in_bytes": 8}),
        ("linux.unified", {"unified": {"cgroup.procs": "1"}}),
        ("linux.hugepage_limits", {"hugepage_limits": [pb.HugepageLimit(page_size="x", limit=1)]}),
    ],
)
async def test_a_wrong_limit_is_refused_by_its_name(cri: Cri, field: str, fields: dict[str, object]) -> None:
    box = await cri.run_container(await run_pod(cri), "sleep", "600")
    with pytest.raises(InvalidRequest, match=field):
        await update(cri, box, **fields)
    assert await shown(cri, box) == limits()


async def test_a_created_container_starts_with_its_new_limits_and_an_exited_one_is_refused(cri: Cri) -> None:
    pod = await run_pod(cri)
    box = await cri.create(pod, "cat", "/proc/self/oom_score_adj")
    await update(cri, box, memory_limit_in_bytes=64 * MIB, oom_score_adj=777)
    assert of(cri, pod, box).memory[0] == 64 * MIB
    await cri.start(box)
    await cri.exited(box)
    assert " 777" in (cri.cribd.logs / "limits" / "box.log").read_text()
    with pytest.raises(WrongState, match="exited"):
        await update(cri, box, cpu_shares=2)
    with pytest.raises(NotFound):
        await update(cri, "f" * 64, cpu_shares=2)


async def test_all_processes_and_those_run_later_get_the_new_oom_score(cri: Cri) -> None:
    pod = await run_pod(cri)
    script = "setsid sleep 600 & sleep 601 & wait"
    box = await cri.run_container(pod, "sh", "-c", script, resources=limits(oom_score_adj=200))
    files = of(cri, pod, box)
    for score in (900, 100):
        await update(cri, box, oom_score_adj=score)
        assert files.scores == {score}
        assert await cri.sh(box, "cat /proc/self/oom_score_adj") == str(score)


async def test_cpus_can_be_taken_away_while_a_command_runs_in_a_cgroup_of_its_own(cri: Cri) -> None:
    pod = await run_pod(cri)
    box = await cri.run_container(pod, "sleep", "600")
    script = "sleep 300 >/dev/null 2>&1 & echo here"
    assert await cri.sh(box, script, timeout=int(20 * PATIENCE)) == "here"
    await update(cri, box, cpuset_cpus="0")
    assert of(cri, pod, box)["cpuset.cpus"] == "0"


async def test_limits_outlive_the_daemon(of_its_own: Cribd) -> None:
    async with of_its_own.connect() as cri:
        pod = await run_pod(cri)
        box = await cri.run_container(pod, "sleep", "600", resources=limits(memory_limit_in_bytes=64 * MIB))
        await update(cri, box, memory_limit_in_bytes=96 * MIB)
        await update_pod(cri, pod, resources=limits(cpu_shares=300))
    of_its_own.kill()
    of_its_own.start()
    async with of_its_own.connect() as again:
        assert (await shown(again, box)).memory_limit_in_bytes == 96 * MIB
        await update(again, box, cpu_shares=50)
        assert await shown(again, box) == limits(memory_limit_in_bytes=96 * MIB, cpu_shares=50)
        assert of(again, pod, box).memory == (96 * MIB, 96 * MIB)
        assert (await told(again, pod))["resources"]["cpu_shares"] == 300
        await again.remove_pod(pod)


async def told(cri: Cri, pod: Pod) -> dict[str, dict[str, int]]:
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    reply = await cri.call(cri.runtime.PodSandboxStatus, request)
    record: dict[str, dict[str, int]] = json.loads(reply.info["info"])["record"]
    return record


async def test_a_pods_own_cgroup_is_limited_from_the_start_and_by_updates(cri: Cri) -> None:
    pod = await run_pod(
        cri,
        resources=limits(
            cpu_shares=100, memory_limit_in_bytes=64 * MIB, cpu_quota=50_000, cpu_period=100_000
        ),
        overhead=limits(cpu_shares=10, memory_limit_in_bytes=16 * MIB, cpu_quota=10_000),
    )
    files = of(cri, pod)
    assert (files.weight, files.quota[0], files.memory[0]) == (cpu_weight(110), 60_000, 80 * MIB)
    await cri.run_container(pod, "sleep", "600")
    await update_pod(cri, pod, resources=limits(cpu_shares=200, memory_limit_in_bytes=128 * MIB))
    assert (files.weight, files.memory[0]) == (cpu_weight(210), 144 * MIB)
    record = await told(cri, pod)
    assert record["resources"]["memory_limit_in_bytes"] == 128 * MIB
    assert record["overhead"] is None  # as it was asked for when the pod was made
    with pytest.raises(InvalidRequest, match=r"resources\.cpu_shares"):
        await update_pod(cri, pod, resources=limits(cpu_shares=-1))


MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: summed}
spec:
  shareProcessNamespace: true
  containers:
  - name: one
    image: IMAGE
    imagePullPolicy: Never
    command: [sleep, "600"]
    resources: {requests: {cpu: 100m}, limits: {memory: 64Mi, cpu: 500m}}
  - name: two
    image: IMAGE
    imagePullPolicy: Never
    command: [sleep, "600"]
    resources: {limits: {memory: 32Mi, cpu: 250m}}
"""


async def test_a_manifests_pod_has_the_sum_of_its_containers_limits_and_follows_them(
    cri: Cri, tmp_path: Path
) -> None:
    dirs = Dirs(str(tmp_path))
    plans = manifests.read(MANIFEST.replace("IMAGE", IMAGE), dirs)
    quiet = manifests.Listening(None, None)
    (pod,) = await manifests.run(cri.connection, plans, dirs, quiet, replace=False)
    files = Files(f"{cri.cribd.cgroup}/{pod}")
    beside = POD_MEMORY // MIB
    assert files.memory[0] == (96 + beside) * MIB, "and what a pod takes beside its containers"
    assert (files.quota, files.weight) == ((75_000, 100_000), cpu_weight(358))
    assert await differences(cri.connection, plans.pods[0], dirs) == []
    here = lookup.latest(await lookup.containers(cri.connection, pod))

    async def change(name: str, **fields: object) -> None:
        await resizing.update_container(cri.connection, here[name], limits(**fields))

    # more than the pod had: with version 1 the kernel refuses it unless the pod grows first
    await change("one", memory_limit_in_bytes=128 * MIB, cpu_quota=200_000, cpu_period=100_000)
    assert (files.memory[0], files.quota[0]) == ((160 + beside) * MIB, 225_000)
    assert [(one.container, one.field) for one in await differences(cri.connection, plans.pods[0], dirs)] == [
        ("one", "linux.resources.cpuQuota"),
        ("one", "linux.resources.memoryLimitInBytes"),
    ]
    await change("one", memory_limit_in_bytes=8 * MIB, cpu_quota=20_000)
    assert (files.memory[0], files.quota[0]) == ((40 + beside) * MIB, 45_000)
    with pytest.raises(ClientError, match=r"cpuset\.cpus"):
        await change("two", memory_limit_in_bytes=64 * MIB, cpuset_cpus="4000")
    assert files.memory[0] == (40 + beside) * MIB
    (status,) = [one for one in await lookup.pods(cri.connection) if one.id == pod]
    found = await manifest_of(cri.connection, status, read_site(dirs.root))
    assert "resources" not in found[0]["spec"], "it is the containers' again"
    assert found[0]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "200m", "memory": str(8 * MIB)}
    await change("two", cpu_quota=-1)
    assert files.quota[0] == -1
    await manifests.remove(cri.connection, await pods.sandbox_status(cri.connection, pod), dirs)


async def test_a_quota_of_none_less_the_overhead_is_none(cri: Cri) -> None:
    pod = await run_pod(cri, overhead=limits(cpu_quota=10_000, cpu_period=100_000))
    box = await cri.run_container(pod, "sleep", "600", resources=limits(cpu_quota=50_000))
    odd = limits(cpu_quota=-10_001, cpu_period=100_000)
    await update_pod(cri, pod, resources=limits(cpu_quota=60_000, cpu_period=100_000))
    await update_pod(cri, pod, resources=odd)
    update = pb.UpdateContainerResourcesRequest(container_id=box, linux=odd)
    await cri.call(cri.runtime.UpdateContainerResources, update)
    assert of(cri, pod).quota[0] == of(cri, pod, box).quota[0] == -1


async def test_a_cgroup_that_the_client_named_is_the_clients_to_limit(cri: Cri) -> None:
    parent = f"{cri.cribd.cgroup}/of-the-client"
    cgroups = Cgroups(detect_layout())
    cgroups.create(parent)
    try:
        config = cri.pod_config("named")
        config.linux.cgroup_parent = parent
        config.linux.resources.cpu_shares = 77
        pod = await pods.run_sandbox(cri.connection, config)
        await cri.run_container(pod, "sleep", "600")
        await update_pod(cri, pod, resources=limits(cpu_shares=88))
        assert Files(parent).weight == cpu_weight(1024)
        assert (await told(cri, pod))["resources"]["cpu_shares"] == 88
        await cri.remove_pod(pod)
    finally:
        await cgroups.remove(parent)


async def test_the_settings_limit_the_number_of_processes(cri: Cri) -> None:
    pod = await run_pod(cri)
    box = await cri.run_container(pod, "sleep", "600")
    assert of(cri, pod, box)["pids.max"] == "200"
    runtime = await cri.call(cri.runtime.RuntimeConfig, pb.RuntimeConfigRequest())
    assert runtime.linux.cgroup_driver == pb.CGROUPFS


def test_the_systemd_driver_is_refused_where_systemd_does_not_run(cribd: Cribd, tmp_path: Path) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here")
    config = tmp_path / "config.toml"
    config.write_text(
        f'data = "{tmp_path}/d"\nstate = "{tmp_path}/s"\ncgroup_root = "{cribd.cgroup}-s"\n'
        'cgroup_driver = "systemd"\n'
    )
    done = cribd.run(config=config)
    assert done.returncode != 0
    assert "systemd does not run on this host" in done.stderr
