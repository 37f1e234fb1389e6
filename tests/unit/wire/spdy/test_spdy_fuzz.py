from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from crib.wire.spdy import frames
from tests.fuzz.fuzz_spdy import one_input
from tests.unit.wire.spdy.spdy_lab import Attacker


def frame_of(peer: Attacker, number: int) -> bytes:
    """One right frame; the number says which, and for which stream."""
    stream_id, size = number % 8, number % 50
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: peer.syn(flags=stream_id % 4),
        lambda: frames.syn_reply(stream_id, peer.block()),
        lambda: frames.headers(stream_id, peer.block(), stream_id % 2),
        lambda: frames.rst_stream(stream_id, 1),
        lambda: frames.settings({stream_id: number}),
        lambda: frames.ping(stream_id),
        lambda: frames.goaway(stream_id, 0),
        lambda: frames.window_update(stream_id, number),
        lambda: frames.data_header(stream_id, size, number % 3 == 0) + bytes(size),
    )
    return makers[number % len(makers)]()


def session_bytes(script: list[int]) -> bytes:
    """A session whose frames are right, in an order that seldom is."""
    peer = Attacker()
    return b"".join(frame_of(peer, number) for number in script)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    one_input(data)


@settings(max_examples=300)
@given(st.integers(0, 255), st.lists(st.integers(0, 1 << 20), max_size=40))
def test_any_order_of_frames(choice: int, script: list[int]) -> None:
    one_input(bytes([choice]) + session_bytes(script))


def test_sessions_with_wrong_bytes_in_them() -> None:
    chance = random.Random(7)
    for _ in range(1500):
        session = bytearray(session_bytes([chance.randrange(1 << 20) for _ in range(20)]))
        for _ in range(chance.randrange(4)):
            session[chance.randrange(len(session))] = chance.randrange(256)
        one_input(bytes([chance.randrange(256)]) + session)
