"""Starts of cribd without its imports, which take three quarters of a start.

    python -m tests.system.labs.nursery DESCRIPTOR      DESCRIPTOR: the test's unix socket, of whole messages

It imports everything, and forks a daemon each time that it is asked; it has no thread, so that a fork is
what a fresh start would be. What has ended stays a zombie until the test asks for its code, as with Popen.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]
_LONGEST = 1 << 17
"""Bytes of a message: an environment may have some tens of thousands."""
END_SECONDS = 60.0
_ROOMS = ("crib.host", "crib.backends", "crib.engine")


class Born:
    """A process that a nursery has forked, to be used like a Popen."""

    def __init__(self, nursery: Nursery, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        self._pidfd = pidfd
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["cribd"], timeout)
        return code

    def send_signal(self, number: int) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._pidfd, number)

    def _ended(self, seconds: float) -> int | None:
        with self._lock:
            if self.returncode is None and _readable(self._pidfd, seconds):
                self.returncode = self._nursery.reap(self.pid)
                os.close(self._pidfd)
            return self.returncode


class Nursery:
    """The test's end."""

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.labs.nursery", str(its.fileno())],
                env={**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"},
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        self._socket = ours
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Born:
        """The module's `main` with these arguments, in the network namespace of the calling thread.

        `log` is its standard output and error, the directory of `log` its working directory, `environment`
        all that it has.
        """
        asked = {"module": module, "arguments": list(arguments), "environment": dict(environment)}
        network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self._lock, log.open("ab") as output:
                message = json.dumps(asked | {"cwd": str(log.parent)}).encode()
                socket.send_fds(self._socket, [message], [output.fileno(), network])
                answer, fds, _, _ = socket.recv_fds(self._socket, _LONGEST, 1)
        finally:
            os.close(network)
        assert answer, f"the nursery has ended with {self._process.wait(END_SECONDS)}"
        return Born(self, int(answer), fds[0])

    def reap(self, pid: int) -> int:
        """What one that has ended has ended with, as Popen tells it."""
        with self._lock:
            self._socket.send(json.dumps({"reap": pid}).encode())
            return int(self._socket.recv(_LONGEST))

    def end(self) -> None:
        self._socket.close()
        self._process.wait(END_SECONDS)


_shared: Nursery | None = None


def shared_nursery() -> Nursery:
    """The one of this process, which is there from the first call until `end_nursery`."""
    global _shared  # noqa: PLW0603
    _shared = _shared or Nursery()
    return _shared


def nursery_pid() -> int | None:
    """None while there is none."""
    return None if _shared is None else _shared.pid


def end_nursery() -> None:
    """Safe to repeat."""
    global _shared  # noqa: PLW0603
    if _shared is not None:
        _shared.end()
    _shared = None


def import_all() -> None:
    """Whatever the daemon is made of."""
    importlib.import_module("crib.daemon")
    for room in map(importlib.import_module, _ROOMS):
        for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            if not found.name.endswith("_main") and ".worker." not in found.name:
                importlib.import_module(found.name)


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _serve(asks: socket.socket) -> None:
    """Until the test closes its end."""
    while True:
        message, fds, _, _ = socket.recv_fds(asks, _LONGEST, 2)
        if not message:
            return
        asked = json.loads(message)
        if "reap" in asked:
            _, status = os.waitpid(asked["reap"], 0)
            asks.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if not pid:
            asks.close()
            _be_started(asked, *fds)
        for descriptor in fds:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(asks, [str(pid).encode()], [pidfd])
        os.close(pidfd)


def _be_started(asked: dict[str, Any], log: int, network: int) -> None:
    """What lies between a fork and a program's main; it does not return."""
    from crib.host import libc

    os.setsid()
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    libc.setns(network, libc.CLONE_NEWNET)
    os.close(network)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    sys.argv[1:] = asked["arguments"]
    importlib.import_module(asked["module"]).main()
    sys.exit()


def main(descriptor: str) -> None:
    import_all()
    gc.collect()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose threads"
    with socket.socket(fileno=int(descriptor)) as asks:
        asks.set_inheritable(False)
        _serve(asks)


if __name__ == "__main__":
    main(*sys.argv[1:])
