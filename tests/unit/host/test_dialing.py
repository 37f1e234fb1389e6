"""Sockets in another root, and who does not wait for them."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import dialing
from crib.host.dialing import connect_unix


@pytest.fixture
def listening(private_root: Path) -> Iterator[str]:
    """A root with a socket `/s` in it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{private_root}/s")
        server.listen(5)
        yield str(private_root)
    os.unlink(f"{private_root}/s")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_who_goes_while_the_place_is_looked_for_leaves_no_descriptor(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread cannot be stopped: what it opens comes when nobody waits for it any more."""
    opened, go_on, real = threading.Event(), threading.Event(), dialing._open_place

    def slowly(root: str, path: str) -> int:
        place = real(root, path)
        opened.set()
        assert go_on.wait(10)
        return place

    before = descriptors()
    (await connect_unix(listening, "/s")).close()
    assert descriptors() == before
    monkeypatch.setattr(dialing, "_open_place", slowly)
    connecting = asyncio.ensure_future(connect_unix(listening, "/s"))
    assert await asyncio.to_thread(opened.wait, 10)
    held = descriptors()
    connecting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert held > before
    assert not descriptors() & (held - before)


async def test_what_is_not_there_leaves_no_descriptor(listening: str) -> None:
    before = descriptors()
    for path in ("/none", "/"):
        with pytest.raises(OSError):
            await connect_unix(listening, path)
    assert descriptors() == before
