"""A process of a container: its streams, its end, and what is told of it."""

from __future__ import annotations

import _socket
import fcntl
import os

from crib.vm.guest.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, Failure
from crib.vm.guest.loop import READ, Later, Loop
from crib.vm.guest.streams import HeldSource, PipeSink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from crib.vm.guest.loop import Job

CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
"""States, as proto/shim/task_types.proto numbers them."""
STDOUT, STDERR = 1, 2
CONSOLE_SECONDS = 10.0
"""For crun to hand over a terminal, once it says that it has made the process."""
_TIOCSWINSZ = 0x5414
_SOL_SOCKET, _SCM_RIGHTS = 1, 1


class Process:
    """A container's first process, or one that was executed in it."""

    def __init__(self, loop: Loop, asked: dict[str, Any]) -> None:
        self._loop = loop
        self.asked = asked
        self.terminal: bool = asked["terminal"]
        self.status = CREATED
        self.pid = 0
        self.exit_status = 0
        self.exited_at = 0
        self.ended = Later()
        self.sources: dict[int, HeldSource] = {}
        self.sink: PipeSink | None = None
        self._master = -1

    def open_streams(self, console: str) -> FarEnds:
        """What crun is started with: pipes for what is wanted, or a socket at `console` for the terminal."""
        if self.terminal:
            return FarEnds(self._loop, (), console)
        ours: dict[int, int] = {}
        theirs: list[int] = []
        for number, wanted in enumerate((self.asked["stdin"], self.asked["stdout"], self.asked["stderr"])):
            if not wanted:
                theirs.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
                continue
            reading, writing = os.pipe2(os.O_CLOEXEC)
            ours[number] = writing if number == 0 else reading
            theirs.append(reading if number == 0 else writing)
        for number, descriptor in ours.items():
            if number == 0:
                self.sink = PipeSink(self._loop, descriptor)
            else:
                self.sources[number] = HeldSource(self._loop, descriptor)
        return FarEnds(self._loop, tuple(theirs), "")

    def begin(self, pid: int, master: int) -> None:
        """It is there: crun has made it. `master` is its terminal, or -1."""
        self.pid = pid
        if master >= 0:
            self._master = master
            self.sources[STDOUT] = HeldSource(self._loop, os.dup(master))
            if self.asked["stdin"]:
                self.sink = PipeSink(self._loop, os.dup(master))

    def end(self, exit_status: int, at: int) -> None:
        """It has ended; `at` in nanoseconds since 1970."""
        self.status, self.exit_status, self.exited_at = STOPPED, exit_status, at
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if self.sink is not None:
            self.sink.close()
        self.ended.set()

    def forget(self) -> None:
        """Nobody asks for it any more: what was not read is dropped."""
        for source in self.sources.values():
            source.close()
        if self.sink is not None:
            self.sink.close()

    def source(self, stream: int) -> HeldSource:
        """What it writes to stdout or stderr."""
        if stream not in (STDOUT, STDERR):
            raise Failure(INVALID_ARGUMENT, f"stream: {stream} is neither 1 (stdout) nor 2 (stderr)")
        if (source := self.sources.get(stream)) is None:
            raise Failure(NOT_FOUND, f"stream: the process has no stream {stream}")
        return source

    def write(self, data: bytes) -> Job:
        """Input for it."""
        if self.sink is None:
            raise Failure(FAILED_PRECONDITION, "data: the process has no stdin")
        return self.sink.write(data)

    def close_stdin(self) -> None:
        """Its input ends. That of a terminal has no end: it hangs up, as with containerd's shims."""
        if self.sink is not None:
            self.sink.close()
        if self.terminal and self._master >= 0:
            for source in self.sources.values():  # each holds the terminal, which hangs up with the last
                source.close()
            os.close(self._master)
            self._master = -1

    def resize(self, width: int, height: int) -> None:
        """Its terminal's size, in characters."""
        if not self.terminal:
            raise Failure(FAILED_PRECONDITION, "the process has no terminal")
        if self._master < 0:
            return  # it has ended, and nobody looks at it
        size = b"".join(min(one, 0xFFFF).to_bytes(2, "little") for one in (height, width, 0, 0))
        fcntl.ioctl(self._master, _TIOCSWINSZ, size)

    def told(self) -> dict[str, Any]:
        """What State answers, the names aside."""
        asked = self.asked
        return {
            "pid": self.pid, "status": self.status, "stdin": asked["stdin"], "stdout": asked["stdout"],
            "stderr": asked["stderr"], "terminal": self.terminal, **self.told_end(),
        }  # fmt: skip

    def told_end(self) -> dict[str, Any]:
        """How and when it ended, if it has."""
        if self.status != STOPPED:
            return {}
        seconds, nanos = divmod(self.exited_at, 1_000_000_000)
        return {"exit_status": self.exit_status, "exited_at": {"seconds": seconds, "nanos": nanos}}


class FarEnds:
    """The other ends of a process's streams, while crun makes it."""

    def __init__(self, loop: Loop, descriptors: tuple[int, ...], console: str) -> None:
        self._loop = loop
        self._console = console
        self.descriptors = descriptors
        self._listener: _socket.socket | None = None
        if console:
            self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            self._listener.bind(console)
            self._listener.listen(1)

    @property
    def words(self) -> list[str]:
        """Arguments for crun."""
        return ["--console-socket", self._console] if self._console else []

    def given(self) -> tuple[int, int, int] | None:
        """The descriptors that crun's process begins with; None for a terminal."""
        if not self.descriptors:
            return None
        stdin, stdout, stderr = self.descriptors
        return stdin, stdout, stderr

    def master(self) -> Job:
        """The terminal that crun has sent, or -1 where none was wanted."""
        if self._listener is None:
            return -1
        limit = self._loop.after(CONSOLE_SECONDS)
        connection = yield from self._accepted(limit)
        try:
            yield from self._readable(connection.fileno(), limit)
            _, extra, _, _ = connection.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        finally:
            connection.close()
        for level, kind, data in extra:
            if level == _SOL_SOCKET and kind == _SCM_RIGHTS and len(data) >= 4:
                return int.from_bytes(data[:4], "little")
        raise Failure(FAILED_PRECONDITION, "crun sent no terminal")

    def close(self) -> None:
        """Crun has them now. Safe to repeat."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            os.unlink(self._console)

    def _accepted(self, limit: Later) -> Job:
        assert self._listener is not None
        yield from self._readable(self._listener.fileno(), limit)
        descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]
        return _socket.socket(fileno=descriptor)

    def _readable(self, descriptor: int, limit: Later) -> Job:
        came = Later()
        limit.then(lambda _: came.set(False))
        self._loop.watch(descriptor, READ, lambda _: came.set(True))
        is_readable = yield came
        self._loop.unwatch(descriptor)
        if not is_readable:
            raise Failure(FAILED_PRECONDITION, f"crun sent no terminal within {CONSOLE_SECONDS:.0f} s")
