"""Each limit holds at its number and not one below it."""

from __future__ import annotations

import tracemalloc

import pytest

from crib.wire.spdy import (
    Limits,
    ResetStatus,
    SessionFailed,
    SpdyError,
    StreamOpened,
    StreamReset,
    frames,
)
from crib.wire.spdy.frames import GoAwayStatus, Setting
from tests.unit.wire.spdy.spdy_lab import DEFAULTS, STDIN, Attacker, Pair, joined


def word(number: int) -> bytes:
    return number.to_bytes(4, "big")


def header(name: int, value: int, tag: bytes = b"") -> bytes:
    return word(name) + tag.rjust(name, b"n") + word(value) + b"v" * value


def test_data_frames_have_a_longest_length() -> None:
    attacker = Attacker(Limits(max_data_frame=100))
    stream_id = attacker.open()
    assert len(attacker.victim.receive(frames.data_header(stream_id, 100, False) + bytes(100))) == 1
    assert "101 bytes" in attacker.fails(frames.data_header(stream_id, 101, False))


def test_a_long_control_frame_fails_by_its_header_alone() -> None:
    for kind in frames.FrameType:
        frame = (0x80030000 | kind).to_bytes(4, "big") + (DEFAULTS.max_header_block + 11).to_bytes(4, "big")
        assert kind.name in Attacker().fails(frame)


def test_compressed_header_blocks_have_a_longest_length() -> None:
    block = Attacker().block()
    assert len(Attacker(Limits(max_header_block=len(block))).victim.receive(Attacker().syn())) == 1
    assert "SYN_STREAM" in Attacker(Limits(max_header_block=len(block) - 1)).fails(Attacker().syn())


def test_a_header_block_inflates_up_to_a_limit() -> None:
    attacker = Attacker(Limits(max_header_bytes=1000, max_header_value=10_000))
    fits = word(1) + header(1, 1000 - 13)
    assert len(fits) == 1000
    assert len(attacker.victim.receive(frames.syn_stream(1, attacker.raw_block(fits)))) == 1
    beyond = attacker.raw_block(word(1) + header(1, 1000 - 12))
    assert "more than 1000 bytes" in attacker.fails(frames.syn_stream(3, beyond))


THREE = word(3) + header(1, 1, b"a") + header(1, 1, b"b") + header(1, 1, b"c")


@pytest.mark.parametrize(
    ("plain", "fits", "refused"),
    [
        (THREE, Limits(max_headers=3), Limits(max_headers=2)),
        (word(1) + header(7, 1), Limits(max_header_name=7), Limits(max_header_name=6)),
        (word(1) + header(1, 7), Limits(max_header_value=7), Limits(max_header_value=6)),
    ],
    ids=["count", "name", "value"],
)
def test_a_header_over_a_limit_costs_its_stream(plain: bytes, fits: Limits, refused: Limits) -> None:
    attacker = Attacker(fits)
    assert len(attacker.victim.receive(frames.syn_stream(1, attacker.raw_block(plain)))) == 1
    attacker = Attacker(refused)
    status = attacker.refuses(frames.syn_stream(1, attacker.raw_block(plain)))
    assert status == ResetStatus.PROTOCOL_ERROR
    after = frames.syn_stream(3, attacker.raw_block(word(0)))
    assert attacker.victim.receive(after) == [StreamOpened(3, (), False)]


def test_numbers_in_a_header_block_reserve_nothing() -> None:
    """CVE-2026-35469: a count or a length of 32 bits was taken for what is needed."""
    for plain in (word(0xFFFFFFFF), word(1) + word(0xFFFFFFF0), word(1) + word(1) + b"a" + word(0x7FFFFFFF)):
        attacker = Attacker()
        frame = frames.syn_stream(1, attacker.raw_block(plain))
        assert peak_of(lambda: attacker.refuses(frame)) < 100_000  # noqa: B023  # called at once
    entries = frames.settings({})[:8] + word(0x1FFFFFFF)
    assert peak_of(lambda: Attacker().fails(entries[:7] + b"\4" + entries[8:])) < 100_000


def test_a_bomb_is_not_inflated_beyond_the_limit() -> None:
    attacker = Attacker(Limits(max_header_block=1 << 20))
    frame = frames.syn_stream(1, attacker.raw_block(bytes(32 << 20)))
    assert len(frame) < 400_000
    assert peak_of(lambda: attacker.fails(frame)) < 2 << 20


def test_settings_have_a_greatest_number() -> None:
    attacker = Attacker(Limits(max_settings=2))
    assert len(attacker.victim.receive(frames.settings({1: 1, 2: 2}))) == 1
    assert "SETTINGS" in attacker.fails(frames.settings({1: 1, 2: 2, 3: 3}))


def test_more_streams_than_allowed_are_refused_until_one_ends() -> None:
    attacker = Attacker(Limits(max_open_streams=2))
    attacker.open(), attacker.open()
    assert attacker.refuses(attacker.syn()) == ResetStatus.REFUSED_STREAM
    attacker.victim.reset(1)
    attacker.open()
    assert attacker.refuses(attacker.syn()) == ResetStatus.REFUSED_STREAM


def test_streams_whose_data_is_not_acknowledged_count_as_open() -> None:
    attacker = Attacker(Limits(max_open_streams=1))
    stream_id = attacker.open()
    attacker.victim.receive(frames.data_header(stream_id, 3, True) + b"abc")
    attacker.victim.send_data(stream_id, b"", fin=True)
    assert attacker.refuses(attacker.syn()) == ResetStatus.REFUSED_STREAM
    attacker.victim.acknowledge(stream_id, 3)
    attacker.open()


def test_streams_in_all_are_counted_with_those_refused() -> None:
    attacker = Attacker(Limits(max_streams=3, max_open_streams=1))
    attacker.open()
    assert attacker.refuses(attacker.syn()) == ResetStatus.REFUSED_STREAM
    attacker.victim.reset(1)
    attacker.open()
    attacker.victim.reset(5)
    assert attacker.refuses(attacker.syn()) == ResetStatus.REFUSED_STREAM


def test_unanswered_pings_of_ours_are_limited() -> None:
    pair = Pair(Limits(max_pings=2))
    pair.client.ping(), pair.client.ping()
    with pytest.raises(SpdyError, match="unanswered"):
        pair.client.ping()
    pair.run()
    pair.client.ping()


@pytest.mark.parametrize("kind", ["pings", "data for no stream", "replies for no stream"])
def test_a_peer_that_causes_answers_and_reads_none_is_let_go(kind: str) -> None:
    attacker = Attacker(Limits(max_control_queued=1000))

    def frame() -> bytes:
        if kind == "pings":
            return frames.ping(1)
        return data if kind == "data for no stream" else frames.syn_reply(99, attacker.block())

    data = frames.data_header(99, 1, False) + b"x"
    for _ in range(10):
        attacker.victim.receive(b"".join(frame() for _ in range(50)))
        assert joined(attacker.victim)
    assert not attacker.victim.is_over
    last = attacker.victim.receive(b"".join(frame() for _ in range(200)))[-1]
    assert isinstance(last, SessionFailed)
    assert last.status == GoAwayStatus.INTERNAL_ERROR
    assert attacker.victim.queued < 1050


def test_headers_inflated_at_once_are_limited() -> None:
    """Streams opened and reset in one piece are never many at a time, and cost as much as if they were."""
    attacker = Attacker(Limits(max_header_bytes_at_once=100_000))
    plain = word(1) + header(1, 8000)
    flood = b"".join(
        frames.syn_stream(number, attacker.raw_block(plain)) + frames.rst_stream(number, 5)
        for number in range(1, 101, 2)
    )
    assert len(flood) < 10_000
    assert "at once" in attacker.fails(flood)
    slow = Attacker(Limits(max_header_bytes_at_once=100_000))
    for number in range(1, 101, 2):
        slow.victim.receive(frames.syn_stream(number, slow.raw_block(plain)) + frames.rst_stream(number, 5))
    assert not slow.victim.is_over


def peak_of(call: object) -> int:
    """Bytes of memory that a call took at its peak."""
    assert callable(call)
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded_however_a_peer_behaves() -> None:
    """Large headers on all streams, then frames that cause answers, events or work; nothing is read.

    The events of one piece are the most of it: at most a MiB of headers, and an event for 12 bytes or more.
    """
    attacker = Attacker()
    plain = word(1) + header(1, 8000)
    opened = b"".join(frames.syn_stream(number, attacker.raw_block(plain)) for number in range(1, 4000, 2))
    floods = (
        frames.window_update(0, 1),
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 5}),
        frames.data_header(1, 0, False),
        frames.data_header(1, 1, False) + b"x",
        frames.ping(1),
    )

    def attack() -> None:
        for at in range(0, len(opened), 4096):
            attacker.victim.receive(opened[at : at + 4096])
            attacker.victim.data_to_send()
        for flood in floods:
            for _ in range(4):
                attacker.victim.receive(flood * (65536 // len(flood)))

    assert peak_of(attack) < 8 << 20
    assert attacker.victim.is_over
    assert attacker.victim.queued <= DEFAULTS.max_control_queued + 100


def test_state_does_not_grow_with_the_streams_that_were() -> None:
    attacker = Attacker()

    def live(count: int) -> None:
        for _ in range(count):
            stream_id = attacker.open()
            attacker.victim.receive(frames.data_header(stream_id, 1, True) + b"x")
            attacker.victim.acknowledge(stream_id, 1)
            attacker.victim.send_data(stream_id, b"", fin=True)
            attacker.victim.data_to_send()

    tracemalloc.start()
    try:
        live(2500)  # the interpreter's own free lists are full then
        before = tracemalloc.get_traced_memory()[0]
        live(2000)
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()


def test_a_reset_stream_is_told_and_gone() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    assert attacker.victim.receive(frames.rst_stream(stream_id, 77)) == [StreamReset(stream_id, 77)]
    assert attacker.victim.receive(attacker.syn()) == [StreamOpened(3, STDIN, False)]
