"""Every kind of change that a node plugin can make, looked at from inside a container and from its host."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import node
from crib.client.errors import ClientError
from crib.host.cgroups import Cgroups, detect_layout
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from tests.plugin_lab import LabPlugin
from tests.system.labs.daemon import Cri, Cribd, running_cribd
from tests.system.labs.node_plugins import taking_part

pytestmark = [pytest.mark.root, pytest.mark.system]

MIB = 1 << 20
LAYOUT = detect_layout()
V2 = LAYOUT.mode == "v2"
CREATE = "CreateContainer"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture
async def plugins(cri: Cri) -> AsyncIterator[tuple[LabPlugin, LabPlugin]]:
    """Two that take part, one after the other."""
    first, second = LabPlugin("first", "10"), LabPlugin("second", "20")
    async with taking_part(cri, first, second):
        yield first, second


def adjusts(plugin: LabPlugin, adjust: pb.ContainerAdjustment) -> None:
    plugin.answers[CREATE] = pb.CreateContainerResponse(adjust=adjust)


def process_adjustment(script: str) -> pb.ContainerAdjustment:
    adjust = pb.ContainerAdjustment(
        args=["sh", "-c", script],
        env=[pb.KeyValue(key="COLOUR", value="blue"), pb.KeyValue(key="-HOME")],
        rlimits=[pb.POSIXRlimit(type="RLIMIT_CORE", hard=4096, soft=2048)],
        annotations={"example.com/colour": "blue"},
    )
    adjust.linux.oom_score_adj.value = 321
    adjust.linux.devices.add(
        path="/dev/mine", type="c", major=1, minor=3, file_mode=pb.OptionalFileMode(value=0o620)
    )
    adjust.linux.namespaces.add(type="ipc")
    adjust.linux.sysctl["kernel.msgmax"] = "4321"
    return adjust


async def test_what_plugins_change_of_a_process_is_seen_inside(
    cri: Cri, plugins: tuple[LabPlugin, LabPlugin]
) -> None:
    first, second = plugins
    adjusts(first, process_adjustment("echo from-the-plugin; exec sleep 600"))
    adjusts(second, pb.ContainerAdjustment(env=[pb.KeyValue(key="SHAPE", value="round")]))
    pod = await cri.run_pod("process")
    box = await cri.run_container(pod, "false")
    told = await cri.sh(
        box,
        "echo $COLOUR $SHAPE; grep -i 'core file' /proc/self/limits | awk '{print $5, $6}';"
        " cat /proc/1/oom_score_adj /proc/sys/kernel/msgmax; stat -c '%a %t %T' /dev/mine; cat /dev/mine",
    )
    assert told.splitlines() == ["blue round", "2048 4096", "321", "4321", "620 1 3"]
    seen = (await second.until_heard(CREATE)).container
    assert "COLOUR=blue" in seen.env, "the second plugin sees what the first one has made of it"
    assert list(seen.args)[:2] == ["sh", "-c"]
    assert seen.annotations["example.com/colour"] == "blue"


async def test_mounts_come_go_and_replace_each_other(
    cri: Cri, plugins: tuple[LabPlugin, LabPlugin], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    first, second = plugins
    adjust = pb.ContainerAdjustment()
    adjust.mounts.add(destination="/data/inner", source=str(tmp_path / "two"))
    adjust.mounts.add(destination="/data", source=str(tmp_path), options=["rbind", "ro"])
    adjust.mounts.add(destination="/gone", type="tmpfs", source="tmpfs")
    adjusts(first, adjust)
    later = pb.ContainerAdjustment()
    later.mounts.add(destination="-/gone")
    later.mounts.add(destination="-/data/inner")
    later.mounts.add(destination="/data/inner", source=str(tmp_path / "one"))
    adjusts(second, later)
    (tmp_path / "inner").mkdir()
    pod = await cri.run_pod("mounts")
    box = await cri.run_container(pod, "sleep", "600")
    told = await cri.sh(box, "cat /data/two/file; cat /data/inner/file; ls -d /gone 2>&1 | wc -c")
    assert told.startswith("twoone")
    assert "/gone" not in await cri.sh(box, "cat /proc/self/mounts")


async def test_limits_are_those_that_plugins_have_set(cri: Cri, plugins: tuple[LabPlugin, LabPlugin]) -> None:
    adjust = pb.ContainerAdjustment()
    limits = adjust.linux.resources
    limits.memory.limit.value = 64 * MIB
    limits.cpu.shares.value = 512
    limits.cpu.quota.value = 30_000
    limits.cpu.period.value = 60_000
    limits.cpu.cpus = "0"
    limits.pids.limit = 77
    adjusts(plugins[0], adjust)
    pod = await cri.run_pod("limits")
    box = await cri.run_container(pod, "sleep", "600")
    files = Cgroups(LAYOUT)
    cgroup = f"{cri.cribd.cgroup}/{pod.id}/{box}"
    wanted = (
        {
            "memory.max": str(64 * MIB),
            "cpu.weight": "59",
            "cpu.max": "30000 60000",
            "pids.max": "77",
            "cpuset.cpus": "0",
        }
        if V2
        else {
            "memory.limit_in_bytes": str(64 * MIB),
            "cpu.shares": "512",
            "cpu.cfs_quota_us": "30000",
            "pids.max": "77",
            "cpuset.cpus": "0",
        }
    )
    assert {name: files.read(cgroup, name).strip() for name in wanted} == wanted
    seen = (await plugins[1].until_heard(CREATE)).container.linux.resources
    assert (seen.cpu.shares.value, seen.pids.limit, seen.memory.limit.value) == (512, 77, 64 * MIB)


async def test_a_seccomp_policy_of_a_plugin_is_in_force(
    cri: Cri, plugins: tuple[LabPlugin, LabPlugin]
) -> None:
    adjust = pb.ContainerAdjustment()
    policy = adjust.linux.seccomp_policy
    policy.default_action = "SCMP_ACT_ALLOW"
    policy.syscalls.add(
        names=["mkdir", "mkdirat"], action="SCMP_ACT_ERRNO", errno_ret=pb.OptionalUInt32(value=38)
    )
    adjusts(plugins[0], adjust)
    pod = await cri.run_pod("seccomp")
    box = await cri.run_container(pod, "sleep", "600")
    assert "not implemented" in await cri.sh(box, "mkdir /tmp/x 2>&1 || true")


async def test_hooks_of_plugins_run_on_the_host_at_their_moments(
    cri: Cri, plugins: tuple[LabPlugin, LabPlugin], tmp_path: Path
) -> None:
    program = tmp_path / "hook"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho $1 >>{tmp_path}/told\n")
    program.chmod(0o755)
    for plugin in plugins:
        adjust = pb.ContainerAdjustment()
        for stage in ("create_runtime", "poststop"):
            getattr(adjust.hooks, stage).add(path=str(program), args=["hook", f"{plugin.base}-{stage}"])
        adjusts(plugin, adjust)
    pod = await cri.run_pod("hooks")
    box = await cri.run_container(pod, "sleep", "600")
    told = tmp_path / "told"
    assert told.read_text().split() == ["first-create_runtime", "second-create_runtime"]
    await cri.stop_container(box)
    await cri.remove_container(box)
    assert told.read_text().split()[2:] == ["first-poststop", "second-poststop"]


@pytest.mark.parametrize(
    ("adjust", "said"),
    [
        (
            pb.ContainerAdjustment(args=["", ""]),
            "NRI plugin 10-first, CreateContainer: adjust.args: the program is empty",
        ),
        (
            pb.ContainerAdjustment(linux=pb.LinuxContainerAdjustment(sysctl={"kernel...x": "1"})),
            "adjust.linux.sysctl: 'kernel...x' leads upwards",
        ),
        (
            pb.ContainerAdjustment(CDI_devices=[pb.CDIDevice(name="vendor.example/none=0")]),
            "NRI 10-first asks for what cannot be done: CDI device vendor.example/none=0 is not in",
        ),
    ],
)
async def test_what_cannot_be_is_refused_by_name_and_leaves_nothing(
    cri: Cri, plugins: tuple[LabPlugin, LabPlugin], adjust: pb.ContainerAdjustment, said: str
) -> None:
    adjusts(plugins[0], adjust)
    pod = await cri.run_pod("refused")
    with pytest.raises(ClientError) as caught:
        await cri.run_container(pod, "sleep", "600")
    assert said in str(caught.value)
    plugins[0].answers.pop(CREATE)
    await cri.run_container(pod, "sleep", "600")


async def test_two_plugins_that_set_the_same_fail_the_create(
    cri: Cri, plugins: tuple[LabPlugin, LabPlugin]
) -> None:
    for plugin in plugins:
        adjusts(plugin, pb.ContainerAdjustment(env=[pb.KeyValue(key="COLOUR", value=plugin.base)]))
    pod = await cri.run_pod("contradiction")
    with pytest.raises(ClientError, match='plugins "20-second" and "10-first" both tried to set Env COLOUR'):
        await cri.run_container(pod, "sleep", "600")
    again = pb.ContainerAdjustment(env=[pb.KeyValue(key="-COLOUR"), pb.KeyValue(key="COLOUR", value="red")])
    adjusts(plugins[1], again)
    box = await cri.run_container(pod, "sleep", "600")
    assert await cri.sh(box, "echo $COLOUR") == "red"
    told = await node.explain_container(cri.connection, box)
    env = json.loads(told.spec)["process"]["env"]
    assert told.origins[f"/process/env/{env.index('COLOUR=red')}"] == "NRI 20-second"
