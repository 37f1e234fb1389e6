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
