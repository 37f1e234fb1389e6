"""What is told to a service manager (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import notify
from crib.host.notify import ServiceManager


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_a_manager_is_told(manager: socket.socket) -> None:
    assert ServiceManager().tell("READY=1")
    assert manager.recv(64) == b"READY=1"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    assert not ServiceManager().tell("READY=1")
    assert ServiceManager().watchdog == 0


@pytest.mark.usefixtures("manager")
def test_a_manager_that_reads_nothing_is_waited_for_no_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "TELL_LIMIT", 0.01)
    ours = ServiceManager()
    for _ in range(10_000):  # net.unix.max_dgram_qlen of them are taken
        if not ours.tell("WATCHDOG=1"):
            return
    raise AssertionError("it took all of them")


@pytest.mark.usefixtures("manager")
@pytest.mark.parametrize(
    ("pid", "period"), [("", 30.0), (str(os.getpid()), 30.0), ("1", 0.0)], ids=["any", "ours", "another"]
)
def test_the_watchdog_is_that_of_this_process(
    monkeypatch: pytest.MonkeyPatch, pid: str, period: float
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert ServiceManager().watchdog == period


@pytest.mark.usefixtures("manager")
def test_programs_that_are_started_later_see_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    ServiceManager()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()


async def answer(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> bool:
    """What it makes of a systemctl that is this shell script."""
    program = directory / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return await ServiceManager().shuts_down()


@pytest.mark.usefixtures("manager")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo stopping; exit 1", True),
        ("echo running", False),
        ("echo degraded; exit 1", False),
        ("echo 'Failed to connect to bus' >&2; exit 1", False),
    ],
)
async def test_a_host_shuts_down_when_systemd_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, *, expected: bool
) -> None:
    assert await answer(tmp_path, monkeypatch, script) is expected


@pytest.mark.usefixtures("manager")
async def test_a_systemd_that_does_not_answer_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "ASK_SECONDS", 0.05)
    assert not await answer(tmp_path, monkeypatch, "exec sleep 600")


async def test_without_a_manager_systemd_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not await answer(tmp_path, monkeypatch, "echo stopping")


@pytest.mark.usefixtures("manager")
async def test_a_host_without_systemd_has_nobody_to_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not await ServiceManager().shuts_down()
