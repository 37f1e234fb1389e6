from __future__ import annotations

import asyncio
import gc
import os
import pty
import socket
import termios
from pathlib import Path

import pytest

from crib.host.streams import (
    CHUNK,
    PIPE_BYTES,
    DescriptorWait,
    Sink,
    SocketStream,
    Source,
    make_pipe,
    unread_bytes,
)
from crib.host.terminals import ConsoleSocket, TerminalSource, begin_lines_anew


async def rest(source: Source) -> bytes:
    parts = []
    async with asyncio.timeout(10):
        while data := await source.read():
            parts.append(data)
    return b"".join(parts)


async def waits(task: asyncio.Task[object]) -> bool:
    """Whether it is still not done after some turns."""
    for _turn in range(5):
        await asyncio.sleep(0)
    return not task.done()


async def test_bytes_go_through_a_pipe_with_back_pressure_and_an_end() -> None:
    reading, writing = make_pipe()
    source, sink = Source(reading), Sink(writing)
    data = os.urandom(PIPE_BYTES * 3 + 17)
    sending = asyncio.ensure_future(sink.write(data))
    assert await waits(sending)
    received = b""
    while len(received) < len(data):
        part = await source.read()
        assert 0 < len(part) <= CHUNK
        received += part
    await sending
    assert received == data
    ending = asyncio.ensure_future(source.read())
    assert await waits(ending)
    await sink.close()
    await sink.close()
    assert await ending == b""
    assert await source.read() == b""
    with pytest.raises(BrokenPipeError):
        await sink.write(b"late")


async def test_a_sink_that_nobody_reads_says_so_also_to_who_waits() -> None:
    reading, writing = make_pipe()
    sink = Sink(writing)
    sending = asyncio.ensure_future(sink.write(b"x" * (PIPE_BYTES + 1)))
    assert await waits(sending)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(sending, 10)
    with pytest.raises(BrokenPipeError):
        await sink.write(b"x")


async def test_a_reader_that_waits_learns_of_the_end() -> None:
    reading, writing = make_pipe()
    source = Source(reading)
    waiting = asyncio.ensure_future(source.read())
    assert await waits(waiting)
    source.end()
    assert await asyncio.wait_for(waiting, 10) == b""
    source.end()
    os.close(writing)


async def test_closing_wakes_who_waits_and_leaves_the_next_user_of_the_descriptor_alone() -> None:
    reading, writing = make_pipe()
    source, sink = Source(reading), Sink(writing)
    await sink.write(b"x" * unread_limit(writing))
    await source.read()
    await rest_now(source)
    waiting = asyncio.ensure_future(source.read())
    assert await waits(waiting)
    source.close()
    source.close()
    again, other = os.pipe()
    if again != reading:  # another one was free, too
        os.dup2(again, reading)
        os.close(again)
        again = reading
    try:
        readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(again, readable.set)
        assert await waiting == b""
        os.write(other, b"x")
        await asyncio.wait_for(readable.wait(), 10)
        asyncio.get_running_loop().remove_reader(again)
    finally:
        os.close(again)
        os.close(other)
        sink.release()


def unread_limit(fd: int) -> int:
    return 1000 + unread_bytes(fd)


async def rest_now(source: Source) -> None:
    while unread_bytes(source._fd):
        await source.read()


async def test_a_cancelled_reader_loses_nothing() -> None:
    reading, writing = make_pipe()
    source = Source(reading)
    waiting = asyncio.ensure_future(source.read())
    assert await waits(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.write(writing, b"kept")
    assert await source.read() == b"kept"
    os.close(writing)
    source.close()


async def test_a_flood_leaves_others_their_turn() -> None:
    zero = os.open("/dev/zero", os.O_RDONLY)
    source = Source(zero)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    for _read in range(100):
        assert len(await source.read()) == CHUNK
    assert turns > 10
    task.cancel()
    source.close()


async def test_two_tasks_may_not_wait_for_the_same() -> None:
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    ready = DescriptorWait(reading, loop.add_reader, loop.remove_reader)
    first = asyncio.ensure_future(ready.wait())
    assert await waits(first)
    with pytest.raises(RuntimeError, match="two tasks"):
        await ready.wait()
    ready.wake()
    assert await first
    assert not await ready.wait(0.01)
    os.close(reading)
    os.close(writing)


async def test_halves_of_a_connection_end_one_by_one_and_then_it_is_gone() -> None:
    ours, theirs = socket.socketpair()
    connection = SocketStream(ours)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    await connection.write(b"question")
    await connection.close()
    assert await loop.sock_recv(theirs, 100) == b"question"
    assert await loop.sock_recv(theirs, 100) == b""
    with pytest.raises(BrokenPipeError):
        await connection.write(b"late")
    await loop.sock_sendall(theirs, b"answer")
    assert await connection.read() == b"answer"
    theirs.close()
    assert await connection.read() == b""
    assert ours.fileno() == -1
    connection.abort()


async def test_a_terminal_s_output_is_whole_before_its_end() -> None:
    master, slave = pty.openpty()
    source, sink = TerminalSource(master), Sink(os.dup(master))
    begin_lines_anew(master)
    source.resize(132, 50)
    source.resize(999_999, -5)
    assert termios.tcgetwinsize(slave) == (0, 65535)
    await sink.write(b"typed\n")
    echoed = b""
    while not echoed.endswith(b"\n"):  # the kernel echoes a character at a time
        echoed += await source.read()
    assert echoed == b"typed\r\n"
    os.write(slave, b"one\ntwo")
    os.close(slave)
    assert await rest(source) == b"one\r\ntwo"
    source.resize(1, 1)
    # The kernel would let a writer wait for ever: nobody may open the other side again.
    writing = asyncio.ensure_future(sink.write(b"x" * 100_000))
    assert await waits(writing)
    sink.release()
    with pytest.raises(BrokenPipeError):
        await writing


def sent(path: str, fds: list[int]) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        socket.send_fds(client, [b"/dev/ptmx"], fds)


def test_one_terminal_is_received_and_nothing_else(private_root: Path) -> None:
    console = ConsoleSocket(f"{private_root}/console")
    try:
        with pytest.raises(OSError, match=r"no terminal|not a terminal"):
            console.receive()
        master, slave = pty.openpty()
        gc.collect()  # what others left open goes now, not while it is counted
        held = set(os.listdir("/proc/self/fd"))
        for wrong in ([os.open("/dev/zero", os.O_RDONLY)], [master, slave]):
            sent(console.path, wrong)
            with pytest.raises(OSError, match=r"no terminal|not a terminal"):
                console.receive()
            if len(wrong) == 1:
                os.close(wrong[0])
        assert set(os.listdir("/proc/self/fd")) == held
        sent(console.path, [master])
        received = console.receive()
        assert os.isatty(received)
        assert not os.get_inheritable(received)
        for fd in (received, master, slave):
            os.close(fd)
    finally:
        console.close()
        console.close()
    assert os.listdir(private_root) == []
