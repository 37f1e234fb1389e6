"""A day of a node: cribd as its unit, pods, limits, restarts, and nothing left at the end.

For a guest, where nothing else is at home: `script/guest trixie pytest tests/guest/smoke.py`. pytest does not
find it by itself, as it is no test of the machine at hand. Its tests are one story and go in this order.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import pods
from crib.client.errors import TimedOut
from crib.client.pods import Pod
from crib.host.cgroup_options import FAVOURS_CHANGES, options_of
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.guest.node import CHECKOUT, START_SECONDS, Node, Traces, cgroup_of, crib, init_pid, run
from tests.system.labs.daemon import Cri, until

SETTINGS = """
cgroup_driver = "systemd"
cgroup_favordynmods = true
default_handler = "crun"

[network]
mode = "bridge"

[handlers.crun]

[handlers.runc]
"""
HANDLERS = ("crun", "runc")
TREE = "/sys/fs/cgroup"
OPTIONS = options_of(TREE)
"""Of the mounted tree, before cribd runs."""
PAGE = "http://127.0.0.1:8088/"
IMAGE = "localhost/demo:latest"
TICKER = "n=0; while true; do n=$((n+1)); echo tick $n; sleep 0.5; done"
"""A container that writes a line at a time."""
MIB = 1 << 20


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    found = Node(SETTINGS)
    try:
        print(f"cribd was ready after {found.start():.1f} s")
        yield found
    finally:
        journal = found.journal()
        if place := os.environ.get("CRIB_ARTEFACTS"):
            Path(place, "cribd.log").write_text(journal)
        found.end()
    assert "Traceback" not in journal, journal


@pytest.fixture
async def cri(node: Node) -> AsyncIterator[Cri]:
    """A connection; pods of the story are removed at its end, and then all is as before."""
    before = Traces.now()
    async with node.connect() as connection:
        known = await connection.sandboxes()
        yield connection
    async with node.connect() as connection:  # anew: the daemon may have been started again
        for sandbox in await connection.sandboxes():
            if sandbox not in known:
                await connection.remove_pod(sandbox)
    node.settle(before)


async def test_the_node_is_ready_and_has_found_what_there_is(node: Node) -> None:
    async with node.connect() as cri:
        status = await cri.call(cri.runtime.Status, pb.StatusRequest(verbose=True))
    conditions = {condition.type: condition.status for condition in status.status.conditions}
    assert conditions["RuntimeReady"]
    assert conditions["NetworkReady"]
    assert {handler.name for handler in status.runtime_handlers} >= set(HANDLERS)


def test_the_cgroup_tree_has_the_option_that_was_asked_for_and_lost_none(node: Node) -> None:
    assert options_of(TREE) == OPTIONS | {FAVOURS_CHANGES}


def test_the_pod_of_the_readme_shows_its_page_and_its_logs(node: Node) -> None:
    archive = Path("/tmp/demo.tar")
    run(str(CHECKOUT / "script" / "demo-image"), "/bin/busybox", str(archive))
    crib("import", str(archive))
    archive.unlink()
    crib("run", "--replace", str(CHECKOUT / "examples" / "web.yaml"))
    address = crib("exec", "web", "-c", "server", "--", "hostname", "-i").strip()
    greeting = f"Hello from web, at {address}"
    assert _page() == greeting
    assert crib("logs", "web", "-c", "page").strip() == greeting
    assert "Running" in crib("ps")
    crib("rm", "--force", "web")


def _page() -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        try:
            return str(opener.open(PAGE, timeout=10).read().decode().strip())
        except OSError:
            assert time.monotonic() < deadline, f"{PAGE} does not answer"
            time.sleep(0.2)  # the web server is a new process: it may not listen yet


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_container_has_its_own_scope_limits_and_confinement(cri: Cri, handler: str) -> None:
    pod = await _pod(cri, handler)
    limits = pb.LinuxContainerResources(
        memory_limit_in_bytes=64 * MIB, cpu_period=100_000, cpu_quota=50_000, cpu_shares=512
    )
    box = await _box(cri, pod, "sleep", "1000", resources=limits)
    pid = await init_pid(cri, box)
    cgroup = cgroup_of(pid)
    assert cgroup.name == f"crib-{box}.scope"
    assert (cgroup / "memory.max").read_text().strip() == str(64 * MIB)
    assert (cgroup / "cpu.max").read_text().split() == ["50000", "100000"]
    assert _confined(pid)


def _confined(pid: int) -> bool:
    """By whichever security module this kernel enforces."""
    if Path("/sys/fs/selinux/enforce").exists():
        return ":container_t:" in Path(f"/proc/{pid}/attr/current").read_text()
    return Path(f"/proc/{pid}/attr/current").read_text().strip() == "crib-default (enforce)"


@pytest.mark.parametrize("handler", HANDLERS)
async def test_commands_run_in_a_container_and_one_that_takes_too_long_is_ended(
    cri: Cri, handler: str
) -> None:
    box = await _box(cri, await _pod(cri, handler), "sleep", "1000")
    said = await cri.execute(box, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (said.code, said.out, said.err) == (7, "out\n", "err\n")
    cgroup = cgroup_of(await init_pid(cri, box))
    with pytest.raises(TimedOut):
        await cri.execute(box, "sleep", "500", timeout=1)
    await until(lambda: len((cgroup / "cgroup.procs").read_text().split()) == 1)
    assert (cgroup / "cgroup.type").read_text().strip() == "domain"


@pytest.mark.parametrize("handler", HANDLERS)
async def test_new_limits_are_in_force_and_outlive_a_reload_of_systemd(cri: Cri, handler: str) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_period=100_000, cpu_quota=50_000)
    box = await _box(cri, await _pod(cri, handler), "sleep", "1000", resources=limits)
    wanted = pb.LinuxContainerResources(memory_limit_in_bytes=96 * MIB, cpu_period=100_000, cpu_quota=70_000)
    request = pb.UpdateContainerResourcesRequest(container_id=box, linux=wanted)
    await cri.call(cri.runtime.UpdateContainerResources, request)
    cgroup = cgroup_of(await init_pid(cri, box))
    before = _limits(cgroup)
    assert before["memory.max"] == str(96 * MIB)
    assert before["cpu.max"] == "70000 100000"
    run("systemctl", "daemon-reload")
    assert _limits(cgroup) == before


def _limits(cgroup: Path) -> dict[str, str]:
    names = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max")
    return {name: (cgroup / name).read_text().strip() for name in names}


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_container_that_takes_too_much_memory_is_told_as_killed_for_it(
    cri: Cri, handler: str
) -> None:
    limits = pb.LinuxContainerResources(memory_limit_in_bytes=32 * MIB)
    pod = await _pod(cri, handler)
    box = await _box(cri, pod, "dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1", resources=limits)
    status = await cri.exited(box, timeout=120)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_container_stops_by_its_signal_and_one_that_does_not_heed_it_is_killed(
    cri: Cri, handler: str
) -> None:
    pod = await _pod(cri, handler)
    script = "trap '{}' TERM; echo up; while true; do sleep 0.1; done"
    heeds = await _box(cri, pod, "sh", "-c", script.format("exit 3"), name="heeds")
    deaf = await _box(cri, pod, "sh", "-c", script.format(""), name="deaf")
    for name in ("heeds", "deaf"):
        log = Path(_log_directory(cri, handler), f"{name}.log")
        await until(lambda log=log: "up" in log.read_text())
    await cri.stop_container(heeds, grace=60)
    await cri.stop_container(deaf, grace=1)
    assert (await cri.status(heeds)).exit_code == 3
    assert (await cri.status(deaf)).exit_code == 137


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
async def test_pods_do_not_notice_that_cribd_is_stopped_or_killed(node: Node, signal: str) -> None:
    before = Traces.now()
    async with node.connect() as cri:
        pod = await _pod(cri, "crun")
        box = await _box(cri, pod, "sh", "-c", TICKER)
        ends = await _box(cri, pod, "sleep", "1000", name="ends")
        first, ending = await init_pid(cri, box), await init_pid(cri, ends)
    old = node.pid()
    run("systemctl", "kill", "--kill-whom=main", f"--signal={signal}", "cribd")
    await until(lambda: node.pid() != old)
    os.kill(ending, 9)
    await until(lambda: node.pid() not in (0, old) and _is_active("cribd"), START_SECONDS)
    async with node.connect() as cri:
        assert await init_pid(cri, box) == first
        assert (await cri.exited(ends)).exit_code == 137
        log = node.logs / "smoke-crun" / "box.log"
        written = log.stat().st_size
        await until(lambda: log.stat().st_size > written)
        assert (await cri.execute(box, "echo", "here")).out == "here\n"
        await cri.remove_pod(pod)
    node.settle(before)


def _is_active(unit: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0


async def _pod(cri: Cri, handler: str) -> Pod:
    config = cri.pod_config(f"smoke-{handler}", log_directory=_log_directory(cri, handler))
    return await pods.run_sandbox(cri.connection, config, handler)


def _log_directory(cri: Cri, handler: str) -> str:
    return str(cri.cribd.logs / f"smoke-{handler}")


async def _box(cri: Cri, pod: Pod, *command: str, **fields: object) -> str:
    return await cri.run_container(pod, *command, image=IMAGE, **fields)
