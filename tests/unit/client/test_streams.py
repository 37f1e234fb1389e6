"""Exec and attach as a client: against the real server, and against peers with habits of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal

import pytest

from crib.client import Connection, streams
from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.streams import StreamOptions
from crib.client.streams.link import UpgradeRefused, stays_here
from crib.model.errors import Unavailable as Refusing
from crib.streaming.certificates import self_signed
from crib.wire import remotecommand, spdy
from crib.wire.remotecommand import Exited, encode_outcome
from tests.unit.client.fake_runtime import World
from tests.unit.streaming.lab import BOUND, Command, Lab, cat, forever, until

Transport = Literal["websocket", "spdy"]


async def rest(source: streams.Reader | None) -> bytes:
    return b"".join([data async for data in source]) if source is not None else b""


async def finish(session: streams.Session) -> tuple[bytes, bytes, int]:
    async with asyncio.timeout(BOUND):
        out, err, code = await asyncio.gather(rest(session.stdout), rest(session.stderr), session.wait())
    return out, err, code


async def speak(command: Command) -> int:
    assert command.stderr is not None
    await command.say(b"out")
    await command.stderr.write(b"err")
    return 7


async def test_what_a_command_writes_comes_and_then_its_code(
    lab: Lab, connection: Connection, transport: Transport
) -> None:
    lab.script = speak
    async with streams.exec(
        connection, lab.box.id, ["a", "b"], StreamOptions(transport=transport)
    ) as session:
        assert session.stdin is None
        assert await finish(session) == (b"out", b"err", 7)
    assert lab.commands[0].wanted.argv == ("a", "b")  # type: ignore[union-attr]  # it is an exec


async def test_input_goes_to_its_end_and_all_of_it_comes_back(
    lab: Lab, connection: Connection, transport: Transport
) -> None:
    lab.script = cat
    data = os.urandom(3 << 20)
    options = StreamOptions(stdin=True, transport=transport)

    async def feed(stdin: streams.Writer | None) -> None:
        assert stdin is not None
        await stdin.write(data)
        await stdin.close()
        await stdin.close()

    async with streams.exec(connection, lab.box.id, ["cat"], options) as session:
        _, found = await asyncio.gather(feed(session.stdin), finish(session))
        assert found == (data, b"", 0)
        assert await session.wait() == 0


async def test_a_terminal_gets_the_sizes_and_has_no_stderr(
    lab: Lab, connection: Connection, transport: Transport
) -> None:
    async def until_resized(command: Command) -> int:
        await command.resized.wait()
        return 0

    lab.script = until_resized
    options = StreamOptions(tty=True, transport=transport)
    async with streams.exec(connection, lab.box.id, ["sh"], options) as session:
        assert session.stderr is None
        await session.resize(100, 40)
        await finish(session)
    assert [(size.width, size.height) for size in lab.commands[0].sizes] == [(100, 40)]


async def test_a_container_is_attached_to(lab: Lab, connection: Connection, transport: Transport) -> None:
    async def answer(command: Command) -> int:
        assert command.stdin is not None
        await command.say(await command.stdin.read())
        return 3

    lab.script = answer
    async with streams.attach(
        connection, lab.box.id, StreamOptions(stdin=True, transport=transport)
    ) as session:
        assert session.stdin is not None
        await session.stdin.write(b"hello")
        assert await finish(session) == (b"hello", b"", 0)


async def test_a_command_that_cannot_run_is_told_in_the_runtime_s_words(
    lab: Lab, connection: Connection, transport: Transport
) -> None:
    lab.failure = Refusing("there is no program sh")
    async with streams.exec(connection, lab.box.id, ["sh"], StreamOptions(transport=transport)) as session:
        with pytest.raises(RuntimeFailure, match="there is no program sh"):
            await session.wait()


async def test_leaving_the_block_lets_the_command_go(
    lab: Lab, connection: Connection, transport: Transport
) -> None:
    lab.script = forever
    before = len(asyncio.all_tasks())
    options = StreamOptions(tty=True, transport=transport)
    async with streams.exec(connection, lab.box.id, ["sh"], options):
        await asyncio.wait_for(lab.opened.wait(), BOUND)
    async with asyncio.timeout(BOUND):
        await lab.commands[0].closed.wait()
    lab.commands[0].task.cancel()
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_reader_that_is_late_holds_the_command_up(
    lab: Lab, connection: Connection, transport: Transport
) -> None:
    """Some 4 MiB are held here, the rest in sockets; the command has far more to say."""
    total = 256 << 20

    async def much(command: Command) -> int:
        for _ in range(total >> 20):
            await command.say(bytes(1 << 20))
        return 0

    lab.script = much
    async with streams.exec(connection, lab.box.id, ["yes"], StreamOptions(transport=transport)) as session:
        await until(lambda: lab.commands and lab.commands[0].stdout.written > 4 << 20)  # type: ignore[union-attr]
        told: list[int] = []
        while told[-5:] != [lab.commands[0].stdout.written] * 5:  # type: ignore[union-attr]
            told.append(lab.commands[0].stdout.written)  # type: ignore[union-attr]
            await asyncio.sleep(0.05)  # the pipe gives no notice when it is no longer written to
        assert told[-1] < 64 << 20
        assert session.stdout is not None
        found = 0
        async with asyncio.timeout(2 * BOUND):
            async for data in session.stdout:
                found += len(data)
        assert (found, await session.wait()) == (total, 0)


async def test_where_websockets_are_refused_spdy_is_spoken_and_remembered(
    older_lab: Lab, world: World, connection: Connection
) -> None:
    older_lab.script = speak
    for calls in (2, 3):
        async with streams.exec(connection, older_lab.box.id, ["sh"]) as session:
            assert await finish(session) == (b"out", b"err", 7)
        assert world.calls == ["Exec"] * calls
    with pytest.raises(UpgradeRefused, match="the runtime refused websocket with 403: Forbidden"):
        async with streams.exec(connection, older_lab.box.id, ["sh"], StreamOptions(transport="websocket")):
            pass


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, spdy.Connection], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(world: World, serve: Serve) -> AsyncIterator[None]:
    """A runtime that takes every upgrade to SPDY and all streams, and then does as it pleases."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        version = remotecommand.SPDY_PROTOCOLS[0].name
        writer.write(b"HTTP/1.1 101 x\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n")
        writer.write(f"X-Stream-Protocol-Version: {version}\r\n\r\n".encode())
        session = spdy.Connection("server", spdy.Limits())
        opened = 0
        while opened < 4:
            for event in session.receive(await reader.read(65536)):
                if isinstance(event, spdy.StreamOpened):
                    session.reply(event.stream_id)
                    opened += 1
            writer.writelines(session.data_to_send())
        await serve(reader, writer, session)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]

    class Elsewhere(Lab):
        def exec_url(self, *argv: str, **wanted: bool) -> str:
            return f"http://127.0.0.1:{port}/exec/x"

    world.lab = Elsewhere()
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


OPTIONS = StreamOptions(stdin=True, transport="spdy")
ERROR, STDIN, STDOUT, STDERR = 1, 3, 5, 7
STATUS = encode_outcome(Exited(9), has_status=True)


async def test_a_runtime_that_resets_all_streams_after_the_outcome_has_ended_them(
    world: World, connection: Connection
) -> None:
    async def as_containerd(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: spdy.Connection
    ) -> None:
        session.send_data(STDOUT, b"out")
        session.send_data(ERROR, STATUS)
        for stream in (STDOUT, ERROR, STDERR, STDIN):
            session.reset(stream)
        writer.writelines(session.data_to_send())

    async with peer(world, as_containerd), streams.exec(connection, "x", ["sh"], OPTIONS) as session:
        assert await finish(session) == (b"out", b"", 9)


async def test_a_connection_that_breaks_while_we_send_does_not_take_the_outcome_along(
    world: World, connection: Connection
) -> None:
    """Who closes with unread input makes its kernel send a reset."""

    async def ends_early(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: spdy.Connection
    ) -> None:
        session.send_data(STDOUT, b"out")
        session.send_data(ERROR, STATUS, fin=True)
        writer.writelines(session.data_to_send())
        await writer.drain()
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def flood(stdin: streams.Writer | None) -> None:
        assert stdin is not None
        with contextlib.suppress(Unavailable):
            while True:
                await stdin.write(bytes(1 << 20))

    async with peer(world, ends_early), streams.exec(connection, "x", ["sh"], OPTIONS) as session:
        _, found = await asyncio.gather(flood(session.stdin), finish(session))
        assert found == (b"out", b"", 9)


async def test_a_connection_that_ends_without_an_outcome_is_told(
    world: World, connection: Connection
) -> None:
    async def dies(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: spdy.Connection
    ) -> None:
        session.send_data(STDOUT, b"half")
        writer.writelines(session.data_to_send())

    async with peer(world, dies), streams.exec(connection, "x", ["sh"], OPTIONS) as session:
        assert session.stdout is not None
        assert await session.stdout.read() == b"half"
        with pytest.raises(Unavailable, match="closed the connection"):
            await session.stdout.read()
        with pytest.raises(Unavailable, match="closed the connection"):
            await session.wait()


async def test_a_broken_session_is_told(world: World, connection: Connection) -> None:
    async def babbles(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: spdy.Connection
    ) -> None:
        writer.write(bytes.fromhex("8002000100000000"))

    async with peer(world, babbles), streams.exec(connection, "x", ["sh"], OPTIONS) as session:
        with pytest.raises(Unavailable, match="broke the protocol"):
            await session.wait()


async def test_a_certificate_of_this_node_is_taken_unless_an_authority_is_named(
    world: World, connection: Connection, tmp_path: Path
) -> None:
    lab = world.lab = await Lab(tls="self-signed").start()
    try:
        lab.script = speak
        async with streams.exec(connection, lab.box.id, ["sh"]) as session:
            assert await finish(session) == (b"out", b"err", 7)
        other = tmp_path / "ca.pem"
        other.write_bytes(
            self_signed("127.0.0.1").partition(b"-----BEGIN CERT")[2].join([b"-----BEGIN CERT", b""])
        )
        transports: tuple[Literal["auto", "spdy"], ...] = ("auto", "spdy")
        for transport in transports:
            options = StreamOptions(transport=transport, ca_file=str(other))
            with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
                async with streams.exec(connection, lab.box.id, ["sh"], options):
                    pass
        with pytest.raises(Unavailable, match="No such file"):
            async with streams.exec(connection, lab.box.id, ["sh"], StreamOptions(ca_file="/nonexistent")):
                pass
    finally:
        await lab.stop()


@pytest.mark.parametrize(
    ("own", "other", "stays"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.9.9.9", True),
        ("::1", "::1", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
    ],
)
def test_a_connection_of_a_node_with_itself_is_known(own: str, other: str, *, stays: bool) -> None:
    assert stays_here(own, other) is stays


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b"", Unavailable, "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", RuntimeFailure, "the answer is not HTTP"),
        (
            b"HTTP/1.1 404 Not Found\r\n\r\nno such token",
            UpgradeRefused,
            "refused SPDY/3.1 with 404: no such token",
        ),
        (b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\n\r\n", UpgradeRefused, "with 500: Oh no"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 20), UpgradeRefused, "with 200"),
        (b"HTTP/1.1 101 x\r\nUpgrade: SPDY/3.1\r\n\r\n", UpgradeRefused, "speaks no version"),
        (b"HTTP/1.1 101 x\r\n" + b"x: y\r\n" * 10000, RuntimeFailure, "the answer is not HTTP"),
    ],
)
async def test_what_is_no_upgrade_is_told(
    world: World, connection: Connection, answer: bytes, kind: type[Exception], message: str
) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]

    class Elsewhere(Lab):
        def exec_url(self, *argv: str, **wanted: bool) -> str:
            return f"http://127.0.0.1:{port}/exec/x"

    world.lab = Elsewhere()
    with pytest.raises(kind, match=message):
        async with streams.exec(connection, "x", ["sh"], OPTIONS):
            pass
    server.close()
    await server.wait_closed()


async def test_where_nobody_listens_is_told_without_the_token(world: World, connection: Connection) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        class Nowhere(Lab):
            def exec_url(self, *argv: str, **wanted: bool) -> str:
                return f"http://127.0.0.1:{port}/exec/secret"

        world.lab = Nowhere()
        with pytest.raises(Unavailable, match=f"streams at 127.0.0.1:{port}: .*refused") as caught:
            async with streams.exec(connection, "x", ["sh"]):
                pass
    assert "secret" not in str(caught.value)
