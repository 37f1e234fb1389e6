"""Containers end in good time when their host shuts down, and go on when only the daemon stops."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from crib.client.pods import Pod
from tests.system.labs.daemon import Cri, Cribd, first_pid, log_contents, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

HEEDS = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"
DEAF = "trap '' TERM; echo up; while :; do sleep 0.1; done"


class Host(Cribd):
    """A daemon whose systemd says what the test has written down."""

    def says(self, state: str) -> None:
        programs = self.root / "programs"
        programs.mkdir(exist_ok=True)
        systemctl = programs / "systemctl"
        systemctl.write_text(f"#!/bin/sh\n[ $1 = is-system-running ] && echo {state}\n")
        systemctl.chmod(0o755)

    def _spawn(self, **environment: str) -> subprocess.Popen[bytes]:
        path = f"{self.root}/programs:{os.environ['PATH']}"
        return super()._spawn(**{"PATH": path, **environment})  # type: ignore[return-value]  # as it comes


@pytest.fixture
def host() -> Iterator[Host]:
    with running_cribd(kind=Host) as daemon:
        assert isinstance(daemon, Host)
        daemon.says("running")
        yield daemon


async def run(cri: Cri, pod: Pod, name: str, script: str) -> tuple[str, int]:
    """A container whose script has begun, and its first process."""
    box = await cri.run_container(pod, "sh", "-c", script, name=name)
    log = cri.cribd.logs / "pod" / f"{name}.log"
    await until(lambda: log_contents(log)["stdout"].startswith(b"up"))
    return box, await first_pid(cri, box)


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def test_containers_end_with_the_host_by_their_signal_or_else_by_sigkill(host: Host) -> None:
    async with host.story() as cri:
        pod = await cri.run_pod("pod")
        heeds, first = await run(cri, pod, "heeds", HEEDS)
        deaf, second = await run(cri, pod, "deaf", DEAF)
        host.says("stopping")
        host.stop()
        assert not is_there(first)
        assert not is_there(second)
        assert log_contents(host.logs / "pod" / "heeds.log")["stdout"] == b"up\nbye\n"
        assert "the host shuts down: 2 containers have 15 s to end" in host.log()
        host.start()  # a host that has not gone after all: their exits are on file
        async with host.connect() as again:
            assert (await again.exited(heeds)).exit_code == 3
            assert (await again.exited(deaf)).exit_code == 137


@pytest.mark.parametrize("state", ["running", "degraded", "maintenance"])
async def test_containers_go_on_when_only_the_daemon_stops(host: Host, state: str) -> None:
    async with host.story() as cri:
        pod = await cri.run_pod("pod")
        _, first = await run(cri, pod, "heeds", HEEDS)
        host.says(state)
        host.stop()
        assert is_there(first)
        assert log_contents(host.logs / "pod" / "heeds.log")["stdout"] == b"up\n"
