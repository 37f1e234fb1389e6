"""How a container starts, stops and ends, as a kubelet sees it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client.errors import ClientError, WrongState
from crib.client.pods import Pod, create_container
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.freezer import Freezer
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import BOUND

pytestmark = [pytest.mark.root, pytest.mark.system]

FORKING = "f() { while true; do sleep 0.01 & done; }; f & f & exec sleep 1000"
SHARED = pb.NamespaceOption(pid=pb.POD)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def freeze(cribd: Cribd, pod: Pod, box: str) -> tuple[Freezer, str]:
    """As somebody with `docker pause` in the fingers would do it."""
    cgroups, path = Cgroups(detect_layout()), f"{cribd.cgroup}/{pod.id}/{box}"
    v1 = "freezer" in cgroups.layout.controllers
    cgroups.write(path, *(("freezer.state", "FROZEN") if v1 else ("cgroup.freeze", "1")))
    freezer = Freezer(cgroups.layout)
    assert freezer.is_frozen(path)
    return freezer, path


@pytest.mark.parametrize("grace", [0, 20])
async def test_a_frozen_container_stops_as_others_do(cri: Cri, cribd: Cribd, grace: int) -> None:
    pod = await cri.run_pod("frozen")
    script = "trap 'exit 7' TERM; touch /ready; while true; do sleep 0.02; done"
    box = await cri.run_container(pod, "sh", "-c", script)
    await until(lambda: cri.sh(box, "ls /ready || true"))
    freeze(cribd, pod, box)
    await cri.stop_container(box, grace)  # the code tells whether its grace passed first
    assert (await cri.status(box)).exit_code == (7 if grace else 137)


async def test_a_command_in_a_frozen_container_is_refused_at_once(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("paused")
    box = await cri.run_container(pod, "sleep", "1000")
    freezer, path = freeze(cribd, pod, box)
    with pytest.raises(WrongState, match="paused"):
        await cri.execute(box, "true")
    freezer.thaw(path)
    assert await cri.sh(box, "echo on") == "on"


async def test_what_forks_all_the_time_in_shared_pids_is_gone_after_the_stop(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("forking", namespaces=SHARED)
    box = await cri.run_container(pod, "sh", "-c", FORKING, namespaces=SHARED)
    cgroups, path = Cgroups(detect_layout()), f"{cribd.cgroup}/{pod.id}/{box}"
    cgroups.write(path, "pids.max", "200")
    seen: set[int] = set()

    def has_forked() -> bool:
        """How many there are at a time is a matter of the machine."""
        seen.update(cgroups.pids(path))
        return len(seen) > 50

    await until(has_forked, BOUND)
    await cri.stop_container(box, 1)
    assert cgroups.pids(path) == []
    assert (await cri.status(box)).exit_code in (137, 143)


async def test_a_program_that_cannot_be_executed_is_a_start_error_in_the_runtimes_words(
    cri: Cri, cribd: Cribd
) -> None:
    pod = await cri.run_pod("refused")
    program = cribd.root / "bad"
    program.write_bytes(b"\x7fELF of another kind of processor")
    program.chmod(0o755)
    mount = pb.Mount(container_path="/bad", host_path=str(program), readonly=True)
    box = await cri.run_container(pod, "/bad", mounts=[mount])
    status = await cri.exited(box, BOUND)
    assert (status.reason, status.exit_code) == ("StartError", 128)
    assert "exec" in status.message
    assert "/bad" in status.message
    assert "format error" in status.message
    program.unlink()


@pytest.mark.parametrize(
    ("command", "words"),
    [("nothere", "nothere"), ("/etc", "/etc|executable"), ("/etc/hosts", "denied|executable")],
)
async def test_what_is_no_program_fails_the_create_in_the_runtimes_words(
    cri: Cri, command: str, words: str
) -> None:
    pod = await cri.run_pod("noprogram")
    with pytest.raises(ClientError, match=words):
        await cri.create(pod, command)
    assert await cri.containers() == {}


async def test_a_child_that_memory_killed_is_the_reason_though_the_container_ended_well(cri: Cri) -> None:
    pod = await cri.run_pod("child")
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    script = "tail -c 200000000 /dev/zero; exit 0"
    box = await cri.run_container(pod, "sh", "-c", script, resources=limits)
    status = await cri.exited(box, BOUND)
    assert (status.exit_code, status.reason) == (0, "OOMKilled")


async def test_a_command_has_the_containers_identity_directory_and_environment(cri: Cri) -> None:
    pod = await cri.run_pod("identity")
    config = cri.container_config("sleep", "1000")
    config.working_dir = "/made/for/it"
    config.envs.add(key="GREETING", value=b'h\xc3\xa9 = "x"\nsecond line')
    security = config.linux.security_context
    security.run_as_user.value, security.run_as_group.value = 1000, 1001
    security.supplemental_groups.extend([5, 6])
    security.no_new_privs = True
    security.capabilities.drop_capabilities.append("ALL")
    box = await create_container(cri.connection, pod, config)
    await cri.start(box)
    # a start returns when the runtime's own process is about to become the container's
    await until(lambda: cri.sh(box, "grep -x sleep /proc/1/comm || true"))
    status = "grep -E '^(Uid|Gid|Groups|Cap.*|NoNewPrivs|Seccomp):' /proc/{}/status"
    assert await cri.sh(box, status.format("self")) == await cri.sh(box, status.format(1))
    lines = (await cri.sh(box, 'id -u; id -g; id -G; pwd; echo "$GREETING"')).splitlines()
    assert lines[:2] == ["1000", "1001"]
    assert {"1001", "5", "6"} <= set(lines[2].split())
    assert lines[3:] == ["/made/for/it", 'hé = "x"', "second line"]
    assert "NoNewPrivs:\t1" in await cri.sh(box, status.format("self"))


async def test_many_short_lives_leave_no_zombie(cri: Cri, cribd: Cribd) -> None:
    pod = await cri.run_pod("short", namespaces=SHARED)
    for number in range(5):
        script = "for i in 1 2 3; do sleep 0.01 & done; exit 0"
        box = await cri.run_container(pod, "sh", "-c", script, name=f"box{number}", namespaces=SHARED)
        await cri.exited(box, BOUND)
        await cri.remove_container(box)

    def zombies() -> list[str]:
        return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if _is_zombie_of(int(pid), cribd.pid)]

    await until(lambda: not zombies())


def _is_zombie_of(pid: int, parent: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    state, ppid = stat.rpartition(") ")[2].split()[:2]
    return state == "Z" and int(ppid) == parent


SAY_NAMES = "hostname; cat /etc/hostname; echo $HOSTNAME"


async def test_a_host_name_with_a_dot_at_its_end_is_set_as_it_is(cri: Cri) -> None:
    pod = await cri.run_pod("fqdn", hostname="fqdn.default.svc.")
    box = await cri.run_container(pod, "sleep", "600")
    assert await cri.sh(box, SAY_NAMES) == "\n".join(["fqdn.default.svc."] * 3)


async def test_a_pod_of_the_nodes_network_has_the_nodes_name_whatever_it_asks_for(cri: Cri) -> None:
    name = socket.gethostname()
    of_node = pb.NamespaceOption(network=pb.NODE, pid=pb.CONTAINER)
    pod = await cri.run_pod("of-the-node", hostname="other", namespaces=of_node)
    box = await cri.run_container(pod, "sleep", "600", namespaces=of_node)
    assert await cri.sh(box, SAY_NAMES) == "\n".join([name] * 3)
    assert socket.gethostname() == name
