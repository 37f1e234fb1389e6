"""Whatever clients do, and in whatever order: nothing is left of it once they have gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from crib.wire.http2 import frames
from tests.unit.rpc.lab import CALLS_LIMIT, Lab
from tests.unit.rpc.memory import Memory
from tests.unit.rpc.raw_client import head, message

Act: TypeAlias = "Callable[[Lab, Memory], None] | None"
"""What a client does; None: everything that can go on goes on for a step."""

PATHS = st.sampled_from(("/Echo", "/Quick", "/Many", "/Wait", "/Slow", "/Fail", "/Stop", "/Big", "/Nothing"))
STREAMS = st.sampled_from((1, 3, 5, 7, 9, 11))
BODIES = st.sampled_from(
    (message(b"3"), message(b"70000"), message(b"")[:2], b"\0\0\xff\xff\xff", b"\1\0\0\0\0")
)
WINDOWS = st.sampled_from((0, 1, 10, 1 << 16, 1 << 20))


def _sends(kind: int, flags: int, stream: int, content: bytes) -> Act:
    return lambda _, client: client.send(frames.frame(kind, flags, stream, content))


def _begins(stream: int, path: str, time: str) -> Act:
    more = {"grpc_timeout": time} if time else {}
    return _sends(frames.HEADERS, frames.END_HEADERS, stream, head(path, **more))


def _asks(stream: int, path: str, content: bytes) -> Act:
    begun = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, head(path))
    asked = frames.frame(frames.DATA, frames.END_STREAM, stream, content)
    return lambda _, client: client.send(begun + asked)


ACTS = st.one_of(
    st.none(),
    st.builds(_begins, STREAMS, PATHS, st.sampled_from(("", "0n", "1n", "9H"))),
    st.builds(_asks, STREAMS, PATHS, BODIES),
    st.builds(_sends, st.just(frames.DATA), st.sampled_from((0, 1)), STREAMS, BODIES),
    st.builds(_sends, st.just(frames.RST_STREAM), st.just(0), STREAMS, st.just(bytes(4))),
    st.builds(
        lambda stream, more: _sends(frames.WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big")),
        st.one_of(st.just(0), STREAMS),
        st.sampled_from((1, 10, 1 << 16, 1 << 20)),
    ),
    st.builds(
        lambda size: lambda _, client: client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: size})),
        WINDOWS,
    ),
    st.just(_sends(frames.SETTINGS, 0, 0, b"\0\5\0\1\0\0")),
    st.just(_sends(frames.PING, 0, 0, bytes(8))),
    st.just(lambda _, client: client.take()),
    st.just(lambda lab, _: lab.let_go.set()),
    st.just(lambda lab, _: lab.reads.set()),
    st.just(lambda _, client: client.leave()),
    st.builds(_sends, st.integers(0, 10), st.integers(0, 255), st.integers(0, 11), st.binary(max_size=12)),
)
COURSES = st.lists(st.tuples(st.integers(0, 2), ACTS), max_size=40)


@settings(max_examples=250, deadline=None)
@given(COURSES, st.booleans())
async def test_no_call_task_or_connection_is_left_of_what_clients_did(
    course: list[tuple[int, Act]], stops: bool
) -> None:
    lab, failed = Lab(""), list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(context))
    before = len(asyncio.all_tasks())
    clients = [Memory(lab.server) for _ in range(3)]
    for client in clients:
        client.greet()
    for number, act in course:
        if act is None:
            await asyncio.sleep(0)
        else:
            act(lab, clients[number])
        assert len(asyncio.all_tasks()) - before <= CALLS_LIMIT
    stopping = [asyncio.ensure_future(lab.server.stop(0))] if stops else []
    await asyncio.sleep(0)
    for client in clients:
        client.leave()
    await asyncio.gather(*stopping)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not failed
    assert (lab.server._open, len(lab.server._connections)) == (0, 0)
    assert len(asyncio.all_tasks()) == before
