"""Kills programs below a daemon, at a moment of their lives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def hunting(daemon: int, word: str, *, after: float = 0.0, newcomers: bool = True) -> Iterator[list[int]]:
    """Kill what is below the daemon with this word in its command line, `after` seconds once it is seen.

    With `newcomers` only what starts from now on.
    """
    killed: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        spared = set(_below(daemon)) if newcomers else set()
        while not over.is_set():
            for pid in _below(daemon):
                if pid in spared or word.encode() not in _command(pid):
                    continue
                time.sleep(after)  # the moment of its life at which it is to die
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    spared.add(pid)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        over.set()
        hunter.join()


def _below(pid: int) -> Iterator[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                yield child
                yield from _below(child)


def _command(pid: int) -> bytes:
    """Program and first words; empty once it has gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
