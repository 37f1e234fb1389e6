"""Counters of interfaces, from /proc/thread-self/net/dev (proc_pid_net(5)).

A sixth of what a question by rtnetlink costs. The numbers are the same, but for `rx_dropped`: it has what the
device missed as well.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_READ = 65536
_MOST = 1 << 20
"""Bytes, which are more than 8,000 interfaces: a pod may make any number of them."""
_COLUMNS = 16
_TX = 8
"""The first column of what was sent."""


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Since the interface was made."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def interface_counters() -> list[InterfaceCounters]:
    """Of all interfaces in the calling thread's network namespace, in the kernel's order."""
    return [counters for line in _lines() if (counters := _parse(line)) is not None]


def _lines() -> list[str]:
    fd = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        # The kernel hands it out in pieces.
        while len(text) < _MOST and (piece := os.read(fd, _READ)):
            text += piece
    finally:
        os.close(fd)
    return text.decode("utf-8", "replace").splitlines()


def _parse(line: str) -> InterfaceCounters | None:
    """None for the two lines of headings. No interface's name holds a colon."""
    name, colon, rest = line.partition(":")
    values = rest.split()
    if not colon or len(values) < _COLUMNS:
        return None
    rx, tx = values[:_TX], values[_TX:]
    return InterfaceCounters(name.strip(), *map(int, rx[:4]), *map(int, tx[:4]))
