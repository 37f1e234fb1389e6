"""A VM's programs on the event loop: their ends, and what they and the guest's console say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket

from crib.host.tied_programs import TiedProgram

_log = logging.getLogger(__name__)

KILL_TIME = 10.0
"""Seconds from SIGKILL to the end of a program."""
CONSOLE_BYTES = 16 << 10
"""Of what the guest's kernel and the programs said last, that are kept."""
_READ_BYTES = 1 << 16


class Watched:
    """A started program on the event loop, which collects its end."""

    def __init__(self, program: TiedProgram) -> None:
        self.program = program
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """How it ended, in words."""
        self._loop.add_reader(program.pidfd, self._collect)

    def kill(self) -> None:
        """Safe to repeat."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.program.pidfd, signal.SIGKILL)

    async def gone(self, seconds: float) -> bool:
        """Whether it ends in this time."""
        await asyncio.wait([self.ended], timeout=seconds)
        return self.ended.done()

    def _collect(self) -> None:
        self._loop.remove_reader(self.program.pidfd)
        found = os.waitid(os.P_PIDFD, self.program.pidfd, os.WEXITED)
        os.close(self.program.pidfd)
        code = 0 if found is None else found.si_status
        killed = found is not None and found.si_code != os.CLD_EXITED
        how = f"was ended by signal {code}" if killed else f"ended with code {code}"
        self.ended.set_result(f"{self.program.name} {how}")


def received(end: socket.socket) -> bytes | None:
    """What a socket that does not block has: empty once nothing can come any more, None if nothing yet."""
    try:
        return end.recv(_READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


class Words:
    """The last of what the guest's console and the programs have said."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._kept = bytearray()
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end, self._read)

    def _read(self) -> None:
        data = received(self._end)
        if data is None:
            return
        if not data:
            self.close()
            return
        self._kept += data
        del self._kept[:-CONSOLE_BYTES]
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("console: %s", data.decode("utf-8", "replace").rstrip())

    def last(self, lines: int) -> str:
        """Of the lines that say something, the last."""
        text = self._kept.decode("utf-8", "replace").replace("\r", "\n")
        return "\n".join([line for line in text.split("\n") if line.strip()][-lines:])

    def close(self) -> None:
        """Safe to repeat."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()
