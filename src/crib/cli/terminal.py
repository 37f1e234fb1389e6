"""The person's terminal: raw while it is lent to a container, its sizes, and the keys that take it back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from crib.cli.session import CommandError
from crib.client.errors import Unavailable

if TYPE_CHECKING:
    from crib.client.streams import Session

_CONTROLS = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def terminal_of(*descriptors: int) -> int | None:
    """The first of these that is a terminal."""
    return next((descriptor for descriptor in descriptors if os.isatty(descriptor)), None)


def raw(descriptor: int | None) -> contextlib.AbstractContextManager[None]:
    """Keys go to the container as they are, Ctrl-C too, until the block ends. None: nothing is changed."""
    return _changed(descriptor, lambda fd: tty.setraw(fd, termios.TCSADRAIN))  # what was typed ahead is kept


def single_keys(descriptor: int | None) -> contextlib.AbstractContextManager[None]:
    """Keys come one by one and are not shown, until the block ends; Ctrl-C still ends the program.

    Ctrl-Z does nothing: the shell would get a terminal that shows our screen. None: nothing is changed.
    """
    return _changed(descriptor, _set_single_keys)


def _set_single_keys(descriptor: int) -> None:
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    modes = termios.tcgetattr(descriptor)
    modes[6][termios.VSUSP] = b"\0"  # _POSIX_VDISABLE (termios(3))
    termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)


@contextlib.contextmanager
def _changed(descriptor: int | None, change: Callable[[int], object]) -> Iterator[None]:
    """A terminal with other modes until the block ends.

    SIGHUP ends the block as SIGTERM does (see Session.run): without its terminal the command has no use.
    """
    if descriptor is None:
        yield
        return
    before = termios.tcgetattr(descriptor)
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, task.cancel)
    try:
        change(descriptor)
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        with contextlib.suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.asynccontextmanager
async def sizes_sent(session: Session, descriptor: int | None) -> AsyncIterator[None]:
    """The container's terminal has the size of this one, now and when it changes. None: nothing is sent."""
    if descriptor is None:
        yield
        return
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    sending = asyncio.ensure_future(_send_sizes(session, descriptor, changed))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send_sizes(session: Session, descriptor: int, changed: asyncio.Event) -> None:
    with contextlib.suppress(Unavailable, OSError):  # over, or the terminal has gone
        while True:
            changed.clear()
            size = os.get_terminal_size(descriptor)
            await session.resize(size.columns, size.lines)
            await changed.wait()


class DetachKeys:
    """Finds the keys that take the terminal back in what is typed."""

    def __init__(self, text: str) -> None:
        """`text` is keys with commas between: single characters, or ctrl- with one of @a-z[\\]^_."""
        self._keys = bytes(map(_key, text.split(","))) if text else b""
        self._matched = 0

    def receive(self, typed: bytes) -> tuple[bytes, bool]:
        """What goes to the container, and whether all of the keys were typed.

        Keys that may become all of them are held back, and go with the next that is typed otherwise.
        """
        if not self._keys:
            return typed, False
        held = self._keys[: self._matched] + typed
        at = held.find(self._keys)
        if at >= 0:
            return held[:at], True
        longest = min(len(held), len(self._keys) - 1)
        self._matched = next(n for n in range(longest, -1, -1) if held.endswith(self._keys[:n]))
        return held[: len(held) - self._matched], False


def _key(text: str) -> int:
    name = text.strip().lower()
    if name.startswith("ctrl-") and len(name) == 6 and name[5] in _CONTROLS:
        return _CONTROLS.index(name[5])
    if len(text) == 1 and text.isascii():
        return ord(text)
    raise CommandError(f"detach key {text!r} is neither one character nor ctrl- with a letter", 2)
