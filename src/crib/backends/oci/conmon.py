"""Starting conmon, hearing what became of the create, and talking to it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal

from crib.backends.known_processes import is_alive
from crib.backends.oci.checkpoint_probe import Criu
from crib.backends.oci.command_lines import Monitored, MonitorProgram, RuntimeProgram
from crib.backends.runtime_words import create_failure, runtime_words
from crib.host.capture import Capture
from crib.host.pidfds import open_pidfd, wait_pidfd
from crib.host.processes import Child, SpawnOptions, spawn
from crib.host.sealed import executable
from crib.host.streams import unread_bytes
from crib.host.threads import OURS
from crib.model.errors import Broken
from crib.model.sandbox import ProcessIdentity
from crib.wire.conmon import CONTROL_FIFO, MAX_SYNC_LINE, decode_sync

_GRACE = 2.0
"""Seconds that a monitor has to end by itself, and from SIGKILL."""
_TELL_PAUSE = 0.002
_TELL_TRIES = 2500


class _SyncPipe:
    """The pipe on which conmon reports the container's pid: one line, or its end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd, self.child_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._data = b""
        self._line: asyncio.Future[bytes] = self._loop.create_future()

    def start(self) -> None:
        self._close_child_end()
        self._loop.add_reader(self._fd, self._read)

    async def line(self, timeout: float) -> bytes:
        """The first line; empty when conmon ended without one. TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            return await self._line

    def close(self) -> None:
        self._close_child_end()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _close_child_end(self) -> None:
        if self.child_end >= 0:
            os.close(self.child_end)
            self.child_end = -1

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, MAX_SYNC_LINE)
        except BlockingIOError:
            return
        self._data += chunk
        line, newline, _rest = self._data.partition(b"\n")
        if (newline or not chunk or len(self._data) > MAX_SYNC_LINE) and not self._line.done():
            self._loop.remove_reader(self._fd)
            self._line.set_result(line if newline else b"")


class Monitors:
    """Starts a monitor for each container."""

    def __init__(self, program: MonitorProgram, runtime: RuntimeProgram, criu: Criu) -> None:
        self._program = program
        self._runtime = runtime
        self._criu = criu

    def spawn(self, container: Monitored) -> MonitorStart:
        """Start conmon, which calls the runtime's create or restore.

        The result is waited for with `MonitorStart.pid`.
        """
        return MonitorStart(
            self._program.create(self._runtime, executable(self._runtime.program), container),
            container,
            self._program.socket_dir,
            self._criu.search_path if container.restore else os.environ.get("PATH", os.defpath),
        )


class MonitorStart:
    """A conmon that was just started. Close it when its answer has been heard."""

    def __init__(
        self, argv: tuple[str, ...], container: Monitored, socket_dir: str, search_path: str
    ) -> None:
        self._container = container
        self._sync = _SyncPipe()
        self._words = Capture(MAX_SYNC_LINE)
        try:
            self.child: Child = spawn(
                argv,
                SpawnOptions(
                    stderr=self._words.child_end,
                    pass_fds=(self._sync.child_end,),
                    # conmon keeps the environment of the daemon for days and gives it to the runtime: only
                    # what is needed.
                    env={
                        "PATH": search_path,
                        # GLib takes no word beyond ASCII in any other locale, and logs may lie anywhere
                        "LC_ALL": "C.UTF-8",
                        "_OCI_SYNCPIPE": str(self._sync.child_end),
                        "TMPDIR": socket_dir,
                    },
                    # An `oom` file is written to the working directory.
                    cwd=container.bundle,
                    owner=container.id,
                ),
            )
        except BaseException:
            self.close()
            raise
        self._sync.start()
        self._words.start()

    async def pid(self, timeout: float) -> int:
        """Pid of the container's first process.

        In the runtime's words InvalidRequest when a field of the request is to blame, else Broken.
        """
        verb = "restore" if self._container.restore else "create"
        what = f"{verb} of container {self._container.id} ({self._container.command!r})"
        try:
            line = await self._sync.line(timeout)
        except TimeoutError:
            self.child.kill()
            raise Broken(f"{what}: conmon and the runtime did not answer within {timeout:.0f} s") from None
        if not line:
            words = runtime_words(self._words.finish().decode("utf-8", "replace"))
            raise create_failure(what, f"conmon ended without an answer: {words}")
        try:
            answer = decode_sync(line)
        except ValueError as error:
            raise Broken(f"{what}: {error}") from error
        if answer.pid <= 0:
            raise create_failure(what, runtime_words(answer.message))
        return answer.pid

    async def end(self) -> None:
        """Kill it, and wait for its end. A `delete` removes what it has started of a container."""
        self.child.kill()
        with contextlib.suppress(TimeoutError):
            await self.child.wait(_GRACE)

    def close(self) -> None:
        self._sync.close()
        self._words.__exit__(None, None, None)


async def end_monitor(monitor: ProcessIdentity | None) -> None:
    """Let a monitor whose container is gone write its exit file and end; kill it when it does not."""
    if monitor is None or not is_alive(monitor):
        return
    try:
        pidfd = open_pidfd(monitor.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(monitor) and not await wait_pidfd(pidfd, _GRACE):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await wait_pidfd(pidfd, _GRACE)
    finally:
        os.close(pidfd)


async def tell(bundle: str, command: bytes, fifo: str = CONTROL_FIFO) -> bool:
    """Write a line to one of a monitor's fifos; False when no monitor reads it any more.

    It waits until the lines before have been read, as conmon loses all but the first of those that it finds
    together. OSError (ETIMEDOUT) when it does not read them.
    """
    path = f"{bundle}/{fifo}"
    for _try in range(_TELL_TRIES):
        read = await OURS.run(f"writing to {path}", _tell_once, path, command)
        if read is not None:
            return read
        await asyncio.sleep(_TELL_PAUSE)
    raise OSError(errno.ETIMEDOUT, "the monitor does not read its input", path)


def _tell_once(path: str, command: bytes) -> bool | None:
    """None when something is unread there."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENOENT}:
            return False
        raise
    try:
        if unread_bytes(fd) != 0:
            return None
        os.write(fd, command)
        return True
    finally:
        os.close(fd)
