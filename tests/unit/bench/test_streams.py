"""`crib bench streams` against the real streaming server with commands that are played."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.bench import flows, streams
from crib.bench.flows import ChannelCounter, Counter, ExecFlood, SpdyCounter
from crib.bench.options import StreamPart, StreamsOptions
from crib.client.errors import ClientError, RuntimeFailure
from crib.model.streams import AttachRequest
from crib.wire.spdy import frames
from tests.unit.client.fake_runtime import Older, World, serve
from tests.unit.streaming.lab import BOUND, Command, Lab, Target, at_once, cat, echo


async def busybox(command: Command) -> int:
    """What the bench asks of busybox."""
    if isinstance(command.wanted, AttachRequest):
        return await cat(command)
    name, *words = command.wanted.argv
    if name == "cat":
        return await cat(command)
    if name == "dd":
        await zeros(command.say, words)
    elif name == "sh":
        assert command.stdin is not None
        size = 0
        while data := await command.stdin.read():
            size += len(data)
        if words[1] == "cat | wc -c":
            await command.say(b"%d\n" % size)
    return 0


async def zeros(write, words: list[str]) -> None:  # type: ignore[no-untyped-def]  # any way to write
    settings = dict(word.split("=") for word in words)
    for _ in range(int(settings["count"])):
        await write(bytes(int(settings["bs"])))


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab()
    lab.script = busybox

    async def serve_target(target: Target) -> None:
        if target.address.port == 7000:
            await echo(target)
        else:
            await zeros(target.outbox.write, [f"bs={64 << 10}", f"count={MEGABYTE // (64 << 10)}"])

    lab.serve_target = serve_target
    yield lab
    await lab.stop()


MEGABYTE = 1_000_000


def options(path: Path, **more: object) -> StreamsOptions:
    settings: dict[str, object] = {"number": 1, "rounds": 1, "size": 1, "sessions": 3}
    return StreamsOptions(endpoints=[f"a={path}/s"], json=f"{path}/out.json", **(settings | more))  # type: ignore[arg-type]  # the options' own


async def run(path: Path, world: World, **more: object) -> dict[str, int]:
    """The count of samples by metric."""
    server = await serve(f"{path}/s", world)
    try:
        async with asyncio.timeout(2 * BOUND):
            await streams.run(options(path, **more), "unused")
    finally:
        await server.stop(None)
    found = json.loads((path / "out.json").read_text())
    return {each["metric"]: each["count"] for each in found["results"]}


async def test_a_run_measures_all_that_a_runtime_speaks_and_leaves_no_pod(tmp_path: Path, lab: Lab) -> None:
    world = World(lab=await lab.start())
    world.add_image("localhost/crib-bench:latest")
    counts = await run(tmp_path, world)
    for label in ("SPDY", "WebSocket"):
        assert counts[f"exec true, {label}"] == 1
        assert counts[f"exec true with a terminal, {label}"] == 1
        assert counts[f"attach and echo of 1 KiB, {label}"] == 1
        assert counts[f"port and echo of 1 byte, {label}"] == 1
        assert counts[f"into a container, {label}"] == 1
        assert counts[f"machine CPU, out of a container, {label}"] == 1
        assert counts[f"3 exec true at once, {label}"] == 1
        assert counts[f"daemon RSS grown, each of 3 sessions, {label}"] == 1
    assert counts["out of a port, SPDY"] == 1
    assert world.images
    assert not world.pods
    assert world.calls.index("StopContainer") < world.calls.index("StopPodSandbox")


async def test_a_runtime_without_websocket_is_measured_over_spdy(tmp_path: Path, lab: Lab) -> None:
    lab.server = Older(lab.streams, lab.settings.streaming, at_once)
    world = World(lab=await lab.start())
    world.add_image("localhost/crib-bench:latest")
    counts = await run(tmp_path, world, only=[StreamPart.ROUND_TRIPS])
    assert "exec true, SPDY" in counts
    assert not [metric for metric in counts if "WebSocket" in metric or "container" in metric]


@pytest.mark.parametrize("words", ["dd", "sh"])
async def test_bytes_that_are_lost_end_the_run(tmp_path: Path, lab: Lab, words: str) -> None:
    async def lossy(command: Command) -> int:
        is_it = not isinstance(command.wanted, AttachRequest) and command.wanted.argv[0] == words
        return 0 if is_it else await busybox(command)

    lab.script = lossy
    world = World(lab=await lab.start())
    world.add_image("localhost/crib-bench:latest")
    problem = "0 of 983040 bytes came" if words == "dd" else "a flooded command says b''"
    with pytest.raises(ClientError, match=f"a: flood: {problem}"):
        await run(tmp_path, world, only=[StreamPart.FLOODS])
    assert not world.pods


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_a_command_that_fails_is_no_measurement(lab: Lab, transport: str) -> None:
    async def fail(command: Command) -> int:
        return 3

    lab.script = fail
    await lab.start()
    with pytest.raises(RuntimeFailure, match="the command of a flood failed"):
        await flows.run(lab.exec_url("dd", stdout=True), ExecFlood(transport, 0))


async def test_a_flood_that_is_cancelled_leaves_no_thread(lab: Lab) -> None:
    began = asyncio.Event()

    async def stuck(command: Command) -> int:
        began.set()
        await asyncio.Event().wait()
        return 0

    lab.script = stuck
    await lab.start()
    flood = asyncio.ensure_future(flows.run(lab.exec_url("dd", stdout=True), ExecFlood("spdy", 1)))
    async with asyncio.timeout(BOUND):
        await began.wait()
        flood.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flood


SPDY = (
    frames.syn_reply(1, b"block")
    + frames.ping(2)
    + frames.data_header(1, 5, False)
    + b"hello"
    + frames.data_header(3, 300, False)
    + bytes(300)
    + frames.data_header(3, 0, True)
    + frames.rst_stream(5, 1)
)
CHANNELS = b"".join(
    (
        b"\x82\x01\x01",
        b"\x82\x06\x03hello",
        b"\x89\x02hi",
        b"\x82\x7e\x01\x2d\x01" + bytes(300),
        b"\x82\x7f" + (70001).to_bytes(8) + b"\x01" + bytes(70000),
        b"\x88\x02\x03\xe8",
    )
)


@pytest.mark.parametrize("step", [1, 2, 7, 1 << 20])
def test_frames_are_counted_wherever_they_are_cut(step: int) -> None:
    def feed(counter: Counter, data: bytes) -> flows.Counted:
        for start in range(0, len(data), step):
            counter.feed(memoryview(data)[start : start + step])
        return counter.counted

    counter: Counter = SpdyCounter()
    counter.counted.kept[1] = bytearray()
    found = feed(counter, SPDY)
    assert (found.sizes[1], found.sizes[3], bytes(found.kept[1])) == (5, 300, b"hello")
    assert (found.replied, found.ended) == ({1}, {3, 5})
    counter = ChannelCounter()
    counter.counted.kept[3] = bytearray()
    found = feed(counter, CHANNELS)
    assert (found.sizes[1], found.sizes[3], bytes(found.kept[3])) == (70300, 5, b"hello")
    assert 3 in found.ended
