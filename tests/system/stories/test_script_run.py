"""The README's first command, for real: twice up, once down, and then a count of what is left."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crib.host.nftables import Nftables
from tests.system.labs.demo import CHECKOUT, Demo, copy_demo

pytestmark = [pytest.mark.root, pytest.mark.system]

SETTLE_SECONDS = 30.0


@pytest.fixture
def demo(private_root: Path) -> Iterator[Demo]:
    found = copy_demo(private_root)
    try:
        yield found
    finally:
        if found.data.exists():
            found.shell("script/run --down")


def test_script_run_shows_a_pod_again_and_again_and_down_leaves_nothing(demo: Demo) -> None:
    first = demo.shell("script/run")
    assert first.returncode == 0, first.stdout
    assert "starting cribd" in first.stdout
    assert f"pod default/web is running ({_pods(demo)[0][:12]}" in first.stdout
    assert "\nHello from web, at " in first.stdout
    assert "StartContainer server" in first.stdout

    config = demo.data / "config.toml"
    config.write_text(changed := config.read_text() + "mtu = 1400\n# mine\n")
    _kill(int((demo.state / "cribd.pid").read_text()))
    recovered = demo.shell("script/run")
    assert recovered.returncode == 0, recovered.stdout
    assert "starting cribd" in recovered.stdout
    assert f"with {config} as it is" in recovered.stdout
    assert config.read_text() == changed
    assert "making and importing a demo image" not in recovered.stdout

    again = demo.shell("script/run")
    assert again.returncode == 0, again.stdout
    assert "already running" in again.stdout
    assert "making and importing a demo image" not in again.stdout
    assert len(_pods(demo)) == 1

    links = os.listdir(f"/sys/class/net/{demo.name}/brif")
    assert len(links) >= 1
    down = demo.shell("script/run --down")
    assert down.returncode == 0, down.stdout
    assert "the demo is removed" in down.stdout
    _wait_until_empty("interfaces", lambda: [x for x in (demo.name, *links) if _is_link(x)])
    _wait_until_empty("processes", lambda: _processes(demo))
    assert not demo.data.exists()
    assert not demo.state.exists()
    assert str(demo.data.parent) not in Path("/proc/mounts").read_text()
    # os.walk goes on where a cgroup of another test goes away meanwhile.
    cgroups = [f"{root}/{name}" for root, names, _ in os.walk("/sys/fs/cgroup") for name in names]
    assert [path for path in cgroups if demo.name in path] == []
    assert not _has_table(f"crib_{demo.name}")

    repeated = demo.shell("script/run --down")
    assert repeated.returncode == 0, repeated.stdout


def test_script_run_says_when_its_port_is_taken(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", demo.port)):
        result = demo.shell("script/run")
    assert result.returncode == 1
    assert f"port {demo.port}, which examples/web.yaml needs, is in use" in result.stdout
    assert not demo.data.exists()


def test_script_run_shows_the_log_of_a_daemon_that_does_not_come_up(demo: Demo) -> None:
    demo.data.mkdir()
    script = demo.checkout / "script" / "run"
    script.write_text(script.read_text().replace('mode = "bridge"', 'mode = "brigde"'))
    result = demo.shell("script/run")
    assert result.returncode == 1
    assert "did not start" in result.stdout
    assert "network.mode is 'brigde'" in result.stdout
    demo.shell(f"rm -r {demo.data} {demo.state}")


@pytest.mark.parametrize("command", ["run --dwon", "run --down now", "setup --devel"])
def test_wrong_usage_is_answered_with_the_right_one(command: str) -> None:
    name = command.split(maxsplit=1)[0]
    result = subprocess.run(
        ["bash", "-c", f"script/{command}"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith(f"usage: sudo script/{name}")


def _kill(pid: int) -> None:
    """kill -9 of a process that is nobody's child here, and it has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        ended = select.poll()
        ended.register(pidfd, select.POLLIN)
        assert ended.poll(1000 * SETTLE_SECONDS), f"{pid} does not end"
    finally:
        os.close(pidfd)


def _pods(demo: Demo) -> list[str]:
    return [pod["id"] for pod in json.loads(demo.shell("crib pods -o json").stdout)]


def _is_link(name: str) -> bool:
    return os.path.exists(f"/sys/class/net/{name}")


def _processes(demo: Demo) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it ended
        if str(demo.state).encode() in command or str(demo.data).encode() in command:
            found.append(f"{pid} {command!r}")
    return found


def _has_table(name: str) -> bool:
    nftables = Nftables()
    try:
        return nftables.exists(name, "guard")
    finally:
        nftables.close()


def _wait_until_empty(what: str, left: Callable[[], list[str]]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.02)  # the kernel tells nobody when it has removed the last of them
    assert not found, f"{what} left behind: {found}"
