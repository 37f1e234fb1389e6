"""Terminals of commands (pty(7)): our end as a stream, its size, and the socket on which a runtime sends it.

Source: OCI runtimes' `--console-socket` (runc's docs/terminal.md): one message with the descriptor of the
terminal's master side.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios

from crib.host.streams import CHUNK, Source

_REST = 256 << 10
"""Bytes that are read after the command's end at most: what it left behind may write for ever."""
_LONGEST_SIDE = 0xFFFF
_ONE_READ = 4096  # the kernel gives no more at once
_NAME_BYTES = 4096


class TerminalSource(Source):
    """What a command writes to its terminal.

    It ends when the last process that has the terminal open has closed it (EIO), and after `end` like every
    Source. The kernel does not say how much is left then, but EAGAIN comes only when everything was read.
    """

    def resize(self, width: int, height: int) -> None:
        """Set columns and rows (tty_ioctl(4), TIOCSWINSZ). The foreground processes get SIGWINCH.

        Values beyond 16 bits become the maximum. No effect after the end.
        """
        if self._fd >= 0:
            columns, rows = (min(max(side, 0), _LONGEST_SIDE) for side in (width, height))
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def _take(self, size: int) -> bytes:
        parts = [self._take_one()]
        while parts[-1] and len(parts) * _ONE_READ < min(size, CHUNK):
            try:
                parts.append(self._take_one())
            except BlockingIOError:
                break
        return b"".join(parts)[:size]

    def _take_one(self) -> bytes:
        try:
            return os.read(self._fd, _ONE_READ)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise

    def _rest(self) -> int:
        return _REST


def begin_lines_anew(terminal: int) -> None:
    """Have a line feed go back to the first column as well (ONLCR), as people's terminals have it."""
    settings = termios.tcgetattr(terminal)
    settings[1] |= termios.ONLCR
    termios.tcsetattr(terminal, termios.TCSANOW, settings)


class ConsoleSocket:
    """A socket on which one terminal is awaited. Its path has at most 107 bytes, and goes with `close`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(path)
            self._socket.listen(1)
        except BaseException:
            self._socket.close()
            raise

    def receive(self) -> int:
        """The terminal that was sent; OSError when there is none. The caller closes it."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            raise OSError(errno.ENOTTY, "the runtime sent no terminal") from None
        with connection:
            room = socket.CMSG_SPACE(array.array("i", [0]).itemsize)
            _name, parts, _flags, _peer = connection.recvmsg(_NAME_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        received = array.array("i")
        for level, kind, data in parts:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
        if len(received) != 1 or not os.isatty(received[0]):
            for fd in received:
                os.close(fd)
            raise OSError(errno.ENOTTY, "what the runtime sent is not a terminal")
        return received[0]

    def close(self) -> None:
        """Safe to repeat."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
