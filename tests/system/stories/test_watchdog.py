"""cribd tells a service manager that it is well only while its own socket answers."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.system.labs.daemon import Cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

WATCHDOG = 2.0
"""Seconds after which a manager would end it."""
BOUND = 60.0


class Watched(Cribd):
    """A daemon with a service manager that wants to hear of it, and is the test."""

    def watched(self) -> socket.socket:
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(str(self.root / "manager"))
        manager.settimeout(BOUND)
        self._process = self._spawn(
            NOTIFY_SOCKET=str(self.root / "manager"), WATCHDOG_USEC=str(int(WATCHDOG * 1e6))
        )
        return manager

    def abort(self) -> None:
        self._end(signal.SIGABRT)


@pytest.fixture
def cribd() -> Iterator[Watched]:
    cribd = Watched()
    try:
        yield cribd
    finally:
        cribd.end()


def test_the_manager_hears_nothing_more_once_the_socket_does_not_answer(cribd: Watched) -> None:
    with cribd.watched() as manager:
        assert [manager.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        cribd.socket.rename(cribd.root / "moved")
        deadline = time.monotonic() + BOUND
        while f"self-test: Version at {cribd.socket}: UNAVAILABLE" not in cribd.log():
            assert time.monotonic() < deadline
            time.sleep(0.02)  # a log tells nobody that it has grown
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while manager.recv(64):  # told before
                pass
        manager.settimeout(WATCHDOG / 2)  # two more self-tests
        with pytest.raises(TimeoutError):
            manager.recv(64)
        (cribd.root / "moved").rename(cribd.socket)
        manager.settimeout(BOUND)
        assert manager.recv(64) == b"WATCHDOG=1"


def test_a_daemon_that_a_watchdog_ends_says_what_its_threads_did(cribd: Watched) -> None:
    with cribd.watched() as manager:
        assert manager.recv(64) == b"READY=1"
        cribd.abort()
    assert "(most recent call first)" in cribd.log()
