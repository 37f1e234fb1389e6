"""The channel between daemon and worker: whole messages, descriptors, and peers that misbehave."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.images.messages import (
    MAX_MESSAGE,
    Cancel,
    Failed,
    File,
    NeedFile,
    Step,
    ToDaemon,
    ToWorker,
    WorkerChannel,
    daemon_decoder,
    raised,
    worker_decoder,
)
from crib.backends.images.worker.failures import failed
from crib.model.errors import Broken, InvalidRequest, NotFound, Unavailable
from crib.wire.oci_image import ImageFormatError

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


class Daemon:
    """The daemon's end, with what came."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: asyncio.Queue[ToDaemon] = asyncio.Queue()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.channel: WorkerChannel[ToDaemon] = WorkerChannel(
            sock,
            daemon_decoder(),
            lambda message, _: self.messages.put_nowait(message),
            self.closed.set_result,
        )


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.ENOMEM, "x"), RuntimeError("can't start new thread")]
)
def test_a_worker_without_memory_says_that_it_is_spent(error: Exception) -> None:
    answer = failed(1, error, importing=True)
    assert (answer.kind, answer.spent) == ("Exhausted", True)
    assert not failed(1, ImageFormatError("x"), importing=True).spent


async def test_a_channel_that_cannot_keep_what_comes_ends(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(pair[0])

    def nothing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(socket, "recv_fds", nothing)
    pair[1].send(b"x")
    assert await asyncio.wait_for(daemon.closed, 5) == "read failed: out of memory"


async def test_messages_and_descriptors_arrive_in_order(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    got: asyncio.Queue[tuple[ToWorker, int | None]] = asyncio.Queue()
    worker: WorkerChannel[ToWorker] = WorkerChannel(
        pair[1], worker_decoder(), lambda message, fd: got.put_nowait((message, fd)), lambda _: None
    )
    daemon = Daemon(pair[0])
    daemon.channel.send(Cancel(1))
    daemon.channel.send(File(2, "file"), os.open(tmp_path / "file", os.O_RDONLY))
    daemon.channel.send(Cancel(3))
    assert await got.get() == (Cancel(1), None)
    message, fd = await got.get()
    assert message == File(2, "file")
    assert fd is not None
    assert os.read(fd, 10) == b"content"
    os.close(fd)
    assert await got.get() == (Cancel(3), None)
    worker.send(Step(1, "x" * 3_000_000))  # more than a socket takes at once
    worker.send(NeedFile(1, "index.json"))
    first, second = await daemon.messages.get(), await daemon.messages.get()
    assert isinstance(first, Step)
    assert len(first.stage) == 3_000_000
    assert second == NeedFile(1, "index.json")
    worker.close()
    assert "closed" in await daemon.closed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack(">I", MAX_MESSAGE + 1), "announced a message"),
        (struct.pack(">I", 3) + b"\xff\xff\xff", "malformed"),
        (struct.pack(">I", 4) + b"\x91\x91\x91\x91", "malformed"),
    ],
)
async def test_a_peer_that_talks_nonsense_is_cut_off(data: bytes, words: str, pair: Pair) -> None:
    daemon = Daemon(pair[0])
    pair[1].sendall(data)
    assert words in await daemon.closed
    daemon.channel.send(Cancel(1))  # nothing happens any more


async def test_a_peer_that_does_not_read_is_cut_off(pair: Pair) -> None:
    daemon = Daemon(pair[0])
    for number in range(6):
        daemon.channel.send(File(number, "x" * (15 << 20)))
    assert "does not read" in await daemon.closed


def test_errors_keep_their_kind_over_the_channel() -> None:
    back = raised(failed(1, NotFound("no such tag"), importing=False), "pull of x")
    assert isinstance(back, NotFound)
    assert str(back) == "pull of x: no such tag"
    away = raised(failed(1, Unavailable("away", reason="RegistryUnavailable"), importing=False), "pull of x")
    assert str(away) == "RegistryUnavailable: pull of x: away"
    assert isinstance(raised(failed(1, ImageFormatError("bad"), importing=True), "import"), InvalidRequest)
    assert isinstance(raised(failed(1, ImageFormatError("bad"), importing=False), "pull"), Broken)
    assert isinstance(raised(Failed(1, "SystemExit", "x"), "pull"), Broken)
