"""Calls of the Engine: its failures in our words, and none that waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from crib.backends.docker import link as link_module
from crib.backends.docker.api import EngineApi, EngineCall, EngineLost
from crib.backends.docker.command_streams import PipedOutput
from crib.backends.docker.hijacked import HIGH_WATER
from crib.backends.docker.link import EngineLink
from crib.backends.docker.nouns import read_command, read_container
from crib.model.errors import Broken, CribError, InvalidRequest, NotFound, WrongState
from tests.fakes.world import bounded
from tests.system.labs.oci_streams import comes_true

CALL = EngineCall("looking at container 1", "GET", "/containers/crib-1/json")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(path: Path, answer: Answer, limit: float = 20.0) -> AsyncIterator[EngineApi]:
    """Somebody who reads a request's head and answers as it pleases."""

    serving_now: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving_now.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, str(path))
    api = EngineApi(str(path), lambda: limit)
    try:
        yield api
    finally:
        await api.close()
        server.close()
        await asyncio.wait([task for task in serving_now if task is not None])


def saying(status: str, body: bytes, kind: str = "application/json") -> Answer:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return answer


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await reader.read()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", InvalidRequest),
        ("404 Not Found", NotFound),
        ("409 Conflict", WrongState),
        ("500 Internal Server Error", Broken),
    ],
)
async def test_a_failure_is_told_in_the_engine_s_words(
    tmp_path: Path, status: str, kind: type[CribError]
) -> None:
    async with bounded(), serving(tmp_path / "s", saying(status, b'{"message":"no such thing"}')) as api:
        with pytest.raises(kind, match="container 1: the Engine says: no such thing"):
            await api.ask(CALL)


@pytest.mark.parametrize("answer", [silent, half])
async def test_an_engine_that_does_not_answer_is_not_waited_for(tmp_path: Path, answer: Answer) -> None:
    async with bounded(), serving(tmp_path / "s", answer, limit=0.1) as api:
        with pytest.raises(EngineLost, match=r"did not answer within 0\.1 s"):
            await api.ask(CALL)
        with pytest.raises((EngineLost, Broken), match=r"did not answer within 0\.1 s|gives no stream"):
            await api.hijack(CALL, terminal=False)

        async def never() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        with pytest.raises(EngineLost):
            await api.send(CALL, never())


async def test_what_fails_while_an_archive_is_made_is_told_as_itself(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise Broken("layer sha256:1 is damaged")

    async with bounded(), serving(tmp_path / "s", silent) as api:
        with pytest.raises(Broken, match=r"^layer sha256:1 is damaged$"):
            await api.send(CALL, broken())


@pytest.mark.parametrize("answer", [saying("200 OK", b"{"), saying("200 OK", b"[1, 2")])
async def test_an_answer_that_is_no_json_is_no_answer(tmp_path: Path, answer: Answer) -> None:
    async with bounded(), serving(tmp_path / "s", answer) as api:
        with pytest.raises(EngineLost):
            await api.ask(CALL)


async def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    api = EngineApi(str(tmp_path / "none"), lambda: 20.0)
    with pytest.raises(EngineLost, match=f"{tmp_path}/none is not to be reached: No such file"):
        await api.ask(CALL)
    assert api.lost_at > 0
    await api.close()


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxI", kind, len(payload)) + payload


UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


async def test_a_connection_becomes_streams_both_ways_and_ends_in_halves(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADED + frame(1, b"early"))
        got.append(await reader.read())  # to the end of our half
        writer.write(frame(2, b"late"))
        await writer.drain()

    async with bounded(), serving(tmp_path / "s", answer) as api:
        pipe = await api.hijack(CALL, terminal=False)
        pieces: list[tuple[str, bytes]] = []
        pipe.begin(lambda stream, data: pieces.append((stream, data)))
        await pipe.write(b"hello")
        pipe.end_input()
        pipe.end_input()
        with pytest.raises(ConnectionError):
            await pipe.write(b"more")
        await pipe.ended.wait()
        assert (got, pieces) == ([b"hello"], [("stdout", b"early"), ("stderr", b"late")])
        pipe.close()


async def test_what_came_before_anybody_looked_is_there_with_its_end(tmp_path: Path) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(UPGRADED + frame(1, b"all"))
        await writer.drain()

    async with bounded(), serving(tmp_path / "s", answer) as api:
        for wait in (0.0, 0.0, 0.05):
            pipe = await api.hijack(CALL, terminal=False)
            await asyncio.sleep(wait)  # the connection is gone after the longest
            pieces: list[tuple[str, bytes]] = []
            pipe.begin(lambda stream, data, to=pieces: to.append((stream, data)))  # type: ignore[misc]
            await pipe.ended.wait()
            assert pieces == [("stdout", b"all")]
            with pytest.raises(ConnectionError):
                await pipe.write(b"late")
            pipe.end_input()
            pipe.close()


async def test_who_does_not_read_holds_up_the_engine_and_not_the_daemon(tmp_path: Path) -> None:
    total, piece = 64 * HIGH_WATER, b"x" * 65536
    sent = 0

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(UPGRADED)
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with bounded(), serving(tmp_path / "s", answer) as api:
        pipe = await api.hijack(CALL, terminal=True)
        output = PipedOutput(pipe)
        pipe.begin(lambda _stream, data: output.inbox.feed(data))
        await comes_true(lambda: output.inbox.size >= HIGH_WATER)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)  # until the other side is held up, which nothing tells
        assert output.inbox.size < 4 * HIGH_WATER
        assert sent < total
        received = 0
        while received < total:
            received += len(await output.read())
        await pipe.ended.wait()
        pipe.close()


INFO = {
    "ServerVersion": "20.10.24",
    "CgroupDriver": "cgroupfs",
    "LiveRestoreEnabled": True,
    "Driver": "overlay2",
}


async def linked(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch, **info: object) -> EngineLink:
    async def ask(self: EngineApi, call: EngineCall) -> object:
        return {**INFO, **info} if call.path == "/info" else {"Version": "x", "ApiVersion": version}

    monkeypatch.setattr(EngineApi, "ask", ask)
    return EngineLink("docker", EngineApi(str(tmp_path), lambda: 1.0), "cgroupfs")


@pytest.mark.parametrize(
    ("version", "info", "words"),
    [
        ("1.41", {}, ""),
        ("1.99", {}, ""),
        ("1.40", {}, "too old: API 1.41"),
        ("1.44", {"CgroupDriver": "systemd"}, "driver 'systemd'; it must be cgroupfs"),
        ("none", {}, "not understood"),
    ],
)
async def test_an_engine_that_cannot_be_used_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, info: dict[str, object], words: str
) -> None:
    link = await linked(tmp_path, version, monkeypatch, **info)
    problem = await link.asked()
    assert words in problem
    assert bool(problem) == bool(words)
    if words:
        with pytest.raises((Broken, EngineLost), match="handler docker: "):
            await link.require()
    else:
        assert (await link.require()).api <= (1, 47)


async def test_an_engine_is_looked_at_again_when_it_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "FRESH", 1000.0)
    gone = True
    api = EngineApi(str(tmp_path), lambda: 1.0)

    async def ask(self: EngineApi, call: EngineCall) -> object:
        if gone:
            self.lost_at += 1e9
            raise EngineLost("it is away")
        return INFO if call.path == "/info" else {"Version": "20.10.24", "ApiVersion": "1.41"}

    monkeypatch.setattr(EngineApi, "ask", ask)
    link = EngineLink("docker", api, "cgroupfs")
    assert await link.asked() == "it is away"
    gone = False
    assert await link.asked() == ""


@pytest.mark.parametrize("document", [{}, [], {"State": None}, {"Id": "x", "State": {}}, "text", None])
def test_what_is_no_container_or_command_is_broken(document: object) -> None:
    for read in (read_command, read_container):
        with pytest.raises(Broken, match="not understood"):
            read(document)
