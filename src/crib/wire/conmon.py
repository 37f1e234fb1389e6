"""The interfaces of conmon: its sync pipe, the exit file, its control fifos and its attach socket.

The attach socket (SOCK_SEQPACKET, several clients) sends all output, each packet with its stream in the first
byte, and accepts input without that byte. conmon writes to its clients in turn and waits for each: a slow one
holds up the container. A client that shuts down its sending half, or disconnects, ends the container's input,
unless conmon runs with --leave-stdin-open; output continues. conmon closes the socket before it writes the
exit file.

Source: conmon's src/parent_pipe_fd.c, conmon.c, ctrl.c, conn_sock.c and ctr_stdio.c (2.1).
"""

from __future__ import annotations

import re

import msgspec

MAX_SYNC_LINE = 64 << 10
"""Bytes of one sync message at most: conmon forwards at most 8 KiB of the runtime's words, escaped."""

REOPEN_LOG = b"2 0 0\n"
"""Makes conmon open its log file anew (under a temporary name, then renamed into place)."""

CONTROL_FIFO = "ctl"
WINDOW_FIFO = "winsz"
"""Files in the bundle. Of lines that are there together, conmon before 2.2 obeys only the first."""
ATTACH_SOCKET = "attach"
"""File in the bundle."""
MAX_INPUT = 32768
"""Bytes of a packet of input: conmon reads no more of one."""
MAX_OUTPUT = 8193
"""Bytes of a packet of output, the first of which is the stream."""
OUTPUT_STREAMS = {2: "stdout", 3: "stderr"}
"""Streams by a packet's first byte, in a CRI log's words; all of a terminal's output is stdout."""

_EXIT = re.compile(rb"\s*(-?[0-9]{1,6})\s*")


def window_size(width: int, height: int) -> bytes:
    """What the window fifo takes: rows and columns of the terminal."""
    return b"%d %d\n" % (height, width)


class Sync(msgspec.Struct, frozen=True):
    """`pid` is the container's first process, or negative when the runtime failed; `message` is its words."""

    pid: int
    message: str = ""


def decode_sync(line: bytes) -> Sync:
    """One message of the sync pipe; ValueError when conmon ended without one or wrote something else."""
    try:
        return msgspec.json.decode(line.decode("utf-8", "replace"), type=Sync)
    except msgspec.DecodeError as error:
        raise ValueError(f"conmon's sync message {line[:200]!r} is not understood: {error}") from error


def decode_exit(data: bytes) -> int:
    """The exit code in an exit file, 0 to 255; ValueError when there is none in it."""
    match = _EXIT.fullmatch(data)
    if match is None:
        raise ValueError(f"exit file holds {data[:40]!r} instead of an exit code")
    code = int(match[1])
    # conmon writes -1 when it could not learn the status; callers know exit codes only as bytes.
    return code if 0 <= code <= 255 else 255
