"""Layers are written once for all who want them, and nothing stays of one that failed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from crib.backends.images.documents import FoundLayer
from crib.backends.images.layers import LayerError
from crib.backends.images.messages import TransferLimits, staged_name
from crib.backends.images.transfer import ChunkPipe, FileOrigin, LayerTransfers, PipeClosed, StreamOrigin
from crib.model.ids import Digest
from crib.model.image import Layer, Progress
from tests.images import GZIP, BuiltLayer, Entry, digest_of, layer_tar

LIMITS = TransferLimits(512, 3, 5.0, 1 << 30, 100)
BUILT = BuiltLayer(layer_tar([Entry("file", os.urandom(100_000))]), GZIP)
FOUND = FoundLayer(Digest(BUILT.diff_id), Digest(digest_of(BUILT.blob)), len(BUILT.blob), "x")


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Source:
    """A blob that comes when the test says so, and counts how often it was asked for."""

    def __init__(self, blob: bytes = BUILT.blob) -> None:
        self.blob = blob
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.count = 0

    async def stream(self) -> AsyncGenerator[tuple[bytes, str], None]:
        self.count += 1
        self.begun.set()
        yield self.blob[:1000], "host"
        await self.gate.wait()
        yield self.blob[1000:], "host"


def ignore(progress: Progress) -> None:
    assert progress.total


async def test_two_requests_share_one_transfer(staging: Path) -> None:
    source = Source()
    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        wanted = [
            group.create_task(transfers.obtain(FOUND, StreamOrigin(source.stream()), LIMITS, ignore))
            for _ in range(2)
        ]
        await source.begun.wait()
        source.gate.set()
        layers = await asyncio.gather(*wanted)
    assert source.count == 1
    assert layers[0] == layers[1]
    assert layers[0].blob_digest == FOUND.blob_digest
    assert os.listdir(staging) == [staged_name(FOUND.diff_id)]
    transfers.release([FOUND.diff_id], handed_over=False)
    assert os.listdir(staging) == [staged_name(FOUND.diff_id)]
    transfers.release([FOUND.diff_id], handed_over=False)
    assert os.listdir(staging) == []
    transfers.close()


async def test_a_file_that_was_handed_over_is_left_alone(staging: Path) -> None:
    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        await transfers.obtain(FOUND, FileOrigin(iter([BUILT.blob])), LIMITS, ignore)
    transfers.release([FOUND.diff_id], handed_over=True)
    assert os.listdir(staging) == [staged_name(FOUND.diff_id)]
    transfers.close()


async def test_a_caller_that_goes_leaves_the_other_its_layer(staging: Path) -> None:
    source = Source()
    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        gone, stays = (
            group.create_task(transfers.obtain(FOUND, StreamOrigin(source.stream()), LIMITS, ignore))
            for _ in range(2)
        )
        await source.begun.wait()
        gone.cancel()
        source.gate.set()
        assert (await stays).diff_id == FOUND.diff_id
    transfers.close()


async def test_the_last_caller_that_goes_ends_the_transfer(staging: Path) -> None:
    source = Source()
    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        task = group.create_task(transfers.obtain(FOUND, StreamOrigin(source.stream()), LIMITS, ignore))
        await source.begun.wait()
        task.cancel()
    assert os.listdir(staging) == []
    transfers.close()


async def test_a_wrong_digest_leaves_nothing(staging: Path) -> None:
    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        lie = FoundLayer(Digest("sha256:" + "0" * 64), FOUND.blob_digest, FOUND.size, "x")
        with pytest.raises(LayerError, match="it unpacks to"):
            await transfers.obtain(lie, FileOrigin(iter([BUILT.blob])), LIMITS, ignore)
    assert os.listdir(staging) == []
    transfers.close()


async def test_a_damaged_stream_stops_its_sender(staging: Path) -> None:
    async def endless() -> AsyncGenerator[tuple[bytes, str], None]:
        yield b"\x1f\x8b" + b"\xff" * 100, "host"
        while True:
            yield bytes(1 << 20), "host"
            await asyncio.sleep(0)  # lets the thread's news in

    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        with pytest.raises(LayerError):
            await transfers.obtain(FOUND, StreamOrigin(endless()), LIMITS, ignore)
    assert os.listdir(staging) == []
    transfers.close()


async def test_the_error_of_a_source_is_the_callers(staging: Path) -> None:
    async def failing() -> AsyncGenerator[tuple[bytes, str], None]:
        yield BUILT.blob[:10], "host"
        raise ConnectionError("gone")

    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)
        with pytest.raises(ConnectionError, match="gone"):
            await transfers.obtain(FOUND, StreamOrigin(failing()), LIMITS, ignore)
    assert os.listdir(staging) == []
    transfers.close()


async def test_who_joined_a_failing_transfer_tries_once_more_alone(staging: Path) -> None:
    source = Source()

    async def failing() -> AsyncGenerator[tuple[bytes, str], None]:
        yield BUILT.blob[:10], "host"
        await source.gate.wait()
        raise ConnectionError("gone")

    async with asyncio.TaskGroup() as group:
        transfers = LayerTransfers(group)

        async def first() -> None:
            with pytest.raises(ConnectionError):
                await transfers.obtain(FOUND, StreamOrigin(failing()), LIMITS, ignore)

        async def second() -> Layer:
            return await transfers.obtain(FOUND, StreamOrigin(source.stream()), LIMITS, ignore)

        group.create_task(first())
        joined = group.create_task(second())
        await asyncio.sleep(0)  # both have joined
        source.gate.set()
        assert (await joined).diff_id == FOUND.diff_id
    transfers.close()


async def test_a_full_pipe_makes_the_loop_wait() -> None:
    pipe = ChunkPipe()
    blocked = asyncio.ensure_future(pipe.put(bytes(8 << 20)))
    await asyncio.sleep(0)
    assert not blocked.done()
    chunks: Iterator[bytes] = pipe.chunks()
    assert len(await asyncio.to_thread(next, chunks)) == 8 << 20
    await blocked
    pipe.close()
    with pytest.raises(PipeClosed):
        await pipe.put(b"x")
