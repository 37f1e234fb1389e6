"""Streams in bulk: much data, many sessions, clients that do not read. Nothing may be cut, left, or grow."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import streams
from crib.client.streams import Session, StreamOptions
from crib.wire.portforward import Target
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import (
    BOUND,
    CRIB,
    SOURCE,
    TRANSPORTS,
    Transport,
    box_in,
    descriptors,
    echo,
    exists,
    memory,
    nothing_kept,
    peak_memory,
    pod_server,
    rest,
    run,
    seen,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

both_ways = pytest.mark.parametrize("transport", TRANSPORTS)
MEGABYTE = 1 << 20
BIG = 100 * MEGABYTE
AT_ONCE = 10


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


@both_ways
async def test_a_big_file_goes_through_cat_and_comes_back_as_it_was(
    cri: Cri, cribd: Cribd, tmp_path: Path, transport: Transport
) -> None:
    await box_in(cri, "box")
    data = os.urandom(BIG)
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(data)
    command = [*CRIB, "--endpoint", f"unix://{cribd.socket}"]
    began = time.monotonic()
    with peak_memory(cribd.pid) as peak, sent.open("rb") as source, got.open("wb") as sink:
        done = await asyncio.to_thread(
            subprocess.run,
            [*command, "exec", "-i", "--transport", transport, "box", "--", "cat"],
            stdin=source,
            stdout=sink,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            timeout=2 * BOUND,
            check=False,
        )
        assert done.returncode == 0
        grown = peak()
    rate = BIG / MEGABYTE / (time.monotonic() - began)
    print(f"{transport}: {rate:.0f} MiB/s each way, {grown / MEGABYTE:.1f} MiB of memory at the most")
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert grown < 16 * MEGABYTE


@both_ways
async def test_clients_that_do_not_read_cost_little_memory_and_delay_nobody(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    count, size = 20, 50 * MEGABYTE
    _, box = await box_in(cri, "box")
    script = f"head -c {size} /dev/zero; touch /done$0"

    async def stuck(number: int) -> Session:
        argv = ["sh", "-c", script, str(number)]
        return await stack.enter_async_context(
            streams.exec(cri.connection, box, argv, StreamOptions(transport=transport))
        )

    with peak_memory(cribd.pid) as peak:
        async with contextlib.AsyncExitStack() as stack:
            for session in [await stuck(number) for number in range(count)]:
                await seen(session.stdout, b"\0" * 1000)
            async with asyncio.timeout(BOUND):
                assert (await run(cri, box, "echo", "quick", transport=transport)).out == b"quick\n"
            assert await cri.sh(box, "ls /done* 2>/dev/null || true") == ""
        for number in range(count):
            await exists(cri, box, f"/done{number}")
        grown = peak()
    print(f"{transport}: {grown / count / MEGABYTE:.2f} MiB of memory for each of {count} clients")
    assert grown < count * 2 * MEGABYTE


async def sessions(cri: Cri, cribd: Cribd, count: int) -> None:
    """Commands of all kinds, each with a client that attaches meanwhile and one of a port, over both ways."""
    pod, box = await box_in(cri, "many", "sh", "-c", "while true; do echo tick; sleep 0.05; done")
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        transport = TRANSPORTS[number % 2]
        async with room:
            match number % 4:
                case 0 | 1:
                    script = f"sleep 0.3 & cat; exit {number % 100}"
                    outcome = await run(cri, box, "sh", "-c", script, stdin=b"in", transport=transport)
                    assert (outcome.code, outcome.out) == (number % 100, b"in")
                case 2:
                    outcome = await run(cri, box, "sh", "-c", "tty; exit 4", stdin=b"", tty=True)
                    assert (outcome.code, outcome.out[:5]) == (4, b"/dev/"), outcome
                case 3:
                    options = StreamOptions(stdin=True, transport=transport)
                    async with streams.exec(cri.connection, box, ["cat"], options) as left:
                        assert left.stdin is not None
                        await left.stdin.write(b"x")
                        await seen(left.stdout, b"x")
            if number % 5 == 0:
                options = StreamOptions(transport=transport)
                async with streams.attach(cri.connection, box, options) as attached:
                    await seen(attached.stdout, b"tick")
                async with streams.forward(cri.connection, pod.id, Target("tcp", 4001), transport) as peer:
                    await peer.write(b"hello")
                    await peer.close()
                    assert await rest(peer) == b"hello"

    async with pod_server(cribd, pod, 4001, echo):
        await asyncio.gather(*(one(number) for number in range(count)))
    await until(lambda: cri.sh(box, "ps | grep -qE '[s]leep 0.3|[c]at' || echo gone"), BOUND)


async def _leaves_nothing(cribd: Cribd, warm_up: int, count: int) -> None:
    async with cribd.story() as cri:
        await sessions(cri, cribd, warm_up)
    before, opened, resident = cribd.leftovers(), descriptors(cribd.pid), memory(cribd.pid)
    began = time.monotonic()
    async with cribd.story() as cri:
        await sessions(cri, cribd, count)
        took = time.monotonic() - began
    cribd.settle(before)
    await until(lambda: len(descriptors(cribd.pid)) <= len(opened))
    grown = memory(cribd.pid) - resident
    print(f"{count / took:.0f} sessions a second, memory {grown / MEGABYTE:+.1f} MiB")
    assert grown < 8 * MEGABYTE
    # pools of threads are as large as the machine has cores
    assert len(os.listdir(f"/proc/{cribd.pid}/task")) < 40 + 2 * (os.cpu_count() or 1)


async def test_three_hundred_sessions_leave_nothing_behind(cribd: Cribd) -> None:
    await _leaves_nothing(cribd, 100, 300)


@pytest.mark.nightly
async def test_ten_thousand_sessions_leave_nothing_behind(cribd: Cribd) -> None:
    await _leaves_nothing(cribd, 500, 10_000)
