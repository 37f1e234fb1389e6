from __future__ import annotations

import pytest

from crib.wire.spdy import (
    DataReceived,
    GoAwayReceived,
    GoAwayStatus,
    PingAcknowledged,
    PingReceived,
    ResetStatus,
    SessionFailed,
    SessionOver,
    Setting,
    SettingsReceived,
    SpdyError,
    StreamGone,
    StreamOpened,
    StreamReplied,
    StreamReset,
    frames,
)
from crib.wire.spdy.frames import FIN, UNIDIRECTIONAL
from crib.wire.spdy.headers import pack_headers
from tests.unit.wire.spdy.spdy_lab import STDIN, Attacker, Pair, joined


def test_a_stream_lives_from_opening_to_both_ends() -> None:
    pair = Pair()
    stream_id = pair.client.open_stream((("streamType", "stdin"),))
    assert pair.run() == ([], [StreamOpened(1, STDIN, False)])
    pair.server.reply(stream_id, (("a", "b"),))
    assert pair.run() == ([StreamReplied(1, (("a", "b"),), False)], [])
    pair.client.send_data(stream_id, b"in", fin=True)
    pair.server.send_data(stream_id, b"out")
    assert pair.run() == ([DataReceived(1, b"out", False)], [DataReceived(1, b"in", True)])
    pair.server.send_data(stream_id, b"", fin=True)
    assert pair.run() == ([DataReceived(1, b"", True)], [])
    assert (pair.client.open_streams, pair.server.open_streams) == (1, 1)
    pair.client.acknowledge(stream_id, 3)
    pair.server.acknowledge(stream_id, 2)
    assert (pair.client.open_streams, pair.server.open_streams) == (0, 0)


def test_ids_of_the_two_sides_are_odd_and_even() -> None:
    pair = Pair()
    assert [pair.client.open_stream(STDIN) for _ in range(3)] == [1, 3, 5]
    assert [pair.server.open_stream(STDIN) for _ in range(3)] == [2, 4, 6]
    at_client, at_server = pair.run()
    assert [event.stream_id for event in at_client if isinstance(event, StreamOpened)] == [2, 4, 6]
    assert [event.stream_id for event in at_server if isinstance(event, StreamOpened)] == [1, 3, 5]


def test_streams_can_be_opened_and_replied_to_half_closed() -> None:
    pair = Pair()
    stream_id = pair.client.open_stream(STDIN, fin=True)
    assert pair.run()[1] == [StreamOpened(1, STDIN, True)]
    with pytest.raises(StreamGone):
        pair.client.send_data(stream_id, b"x")
    pair.server.reply(stream_id, fin=True)
    assert pair.run()[0] == [StreamReplied(1, (), True)]
    assert (pair.client.open_streams, pair.server.open_streams) == (0, 0)


def test_a_stream_of_one_direction_takes_no_answer() -> None:
    attacker = Attacker()
    assert attacker.victim.receive(attacker.syn(flags=UNIDIRECTIONAL)) == [StreamOpened(1, STDIN, False)]
    with pytest.raises(StreamGone):
        attacker.victim.reply(1)
    attacker.victim.receive(frames.data_header(1, 0, True))
    assert attacker.victim.open_streams == 0


def test_nothing_is_sent_before_the_reply() -> None:
    pair = Pair()
    stream_id = pair.client.open_stream(STDIN)
    pair.run()
    with pytest.raises(SpdyError, match="before its reply"):
        pair.server.send_data(stream_id, b"x")
    pair.server.reply(stream_id)
    with pytest.raises(SpdyError, match="no reply"):
        pair.server.reply(stream_id)
    with pytest.raises(SpdyError, match="no reply"):
        pair.client.reply(stream_id)


def test_a_reset_ends_both_directions_and_is_told_once() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.client.reset(stream_id)
    pair.client.reset(stream_id)
    assert pair.run() == ([], [StreamReset(stream_id, ResetStatus.CANCEL)])
    for end in (pair.client, pair.server):
        assert end.open_streams == 0
        with pytest.raises(StreamGone):
            end.send_data(stream_id, b"x")
        with pytest.raises(StreamGone):
            end.window(stream_id)
        end.acknowledge(stream_id, 5)


def test_frames_under_way_when_a_stream_ended_are_dropped() -> None:
    pair = Pair()
    stream_id = pair.open()
    pair.client.send_data(stream_id, b"late")
    pair.server.reset(stream_id)
    assert pair.server.receive(joined(pair.client)) == []
    assert pair.client.receive(joined(pair.server)) == [StreamReset(stream_id, ResetStatus.CANCEL)]
    block = pair.client._state.deflater.deflate(pack_headers(STDIN))
    assert pair.server.receive(frames.headers(stream_id, block)) == []
    assert pair.server.receive(frames.rst_stream(stream_id, 1) + frames.window_update(stream_id, 1)) == []
    assert joined(pair.server) == b""


def test_data_comes_as_it_arrives() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    frame = frames.data_header(stream_id, 10, True) + b"0123456789"
    assert attacker.victim.receive(frame[:12]) == [DataReceived(stream_id, b"0123", False)]
    assert attacker.victim.receive(frame[12:]) == [DataReceived(stream_id, b"456789", True)]


def test_data_is_sent_without_a_copy() -> None:
    pair = Pair()
    stream_id = pair.open()
    data = bytearray(b"data")
    pair.server.send_data(stream_id, data)
    assert pair.server.queued == 12
    assert pair.server.data_to_send()[1] is data
    assert pair.server.queued == 0


def test_pings_are_answered() -> None:
    pair = Pair()
    assert [pair.client.ping(), pair.client.ping(), pair.server.ping()] == [1, 3, 2]
    at_client, at_server = pair.run()
    assert at_client == [PingReceived(2), PingAcknowledged(1), PingAcknowledged(3)]
    assert at_server == [PingReceived(1), PingReceived(3), PingAcknowledged(2)]
    assert pair.client.receive(frames.ping(1)) == []
    assert joined(pair.client) == b""


def test_settings_are_told_and_the_number_of_streams_is_obeyed() -> None:
    pair = Pair()
    pair.server.settings({Setting.MAX_CONCURRENT_STREAMS: 1})
    assert pair.run()[0] == [SettingsReceived({4: 1})]
    stream_id = pair.open()
    with pytest.raises(SpdyError, match="no more"):
        pair.client.open_stream(STDIN)
    pair.client.reset(stream_id)
    assert pair.open() == 3
    with pytest.raises(SpdyError, match="fixed"):
        pair.server.settings({Setting.INITIAL_WINDOW_SIZE: 1})


def test_a_refused_call_leaves_the_header_compression_whole() -> None:
    pair = Pair()
    pair.server.settings({Setting.MAX_CONCURRENT_STREAMS: 1})
    pair.open()
    with pytest.raises(SpdyError):
        pair.client.open_stream((("other", "stream"),))
    with pytest.raises(SpdyError):
        pair.client.open_stream((("Host", "x"),))
    pair.server.settings({Setting.MAX_CONCURRENT_STREAMS: 5})
    pair.run()
    pair.client.open_stream((("third", "stream"),))
    assert pair.run()[1] == [StreamOpened(3, (("third", "stream"),), False)]


def test_after_a_goaway_streams_go_on_and_none_are_opened() -> None:
    pair = Pair()
    stream_id = pair.open()
    late = pair.client.open_stream(STDIN)
    pair.server.goaway()
    at_client, at_server = pair.run()
    assert at_client == [GoAwayReceived(stream_id, GoAwayStatus.OK)]
    assert at_server == []
    assert late == 3
    for end in (pair.client, pair.server):
        with pytest.raises(SessionOver):
            end.open_stream(STDIN)
    pair.server.send_data(stream_id, b"on")
    assert pair.run()[0] == [DataReceived(stream_id, b"on", False)]


def test_more_headers_are_read_and_only_their_end_is_told() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    assert attacker.victim.receive(frames.headers(stream_id, attacker.block())) == []
    end = frames.headers(stream_id, attacker.block((("x", "y"),)), FIN)
    assert attacker.victim.receive(end) == [DataReceived(stream_id, b"", True)]


def test_after_a_failure_nothing_is_read_or_sent() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    attacker.fails(frames.data_header(0, 1, False))
    assert attacker.victim.receive(frames.ping(1)) == []
    assert attacker.victim.data_to_send() == []
    assert attacker.victim.open_streams == 0
    for call in (
        lambda: attacker.victim.open_stream(STDIN),
        lambda: attacker.victim.reply(stream_id),
        lambda: attacker.victim.send_data(stream_id, b""),
        lambda: attacker.victim.window(stream_id),
        attacker.victim.ping,
        lambda: attacker.victim.settings({}),
        attacker.victim.goaway,
    ):
        with pytest.raises(SessionOver):
            call()
    attacker.victim.acknowledge(stream_id, 1)
    attacker.victim.reset(stream_id)
    assert attacker.victim.data_to_send() == []


def test_what_came_before_the_failure_is_told() -> None:
    attacker = Attacker()
    *before, last = attacker.victim.receive(attacker.syn() + frames.ping(1) + frames.data_header(0, 1, False))
    assert before == [StreamOpened(1, STDIN, False), PingReceived(1)]
    assert isinstance(last, SessionFailed)
    assert joined(attacker.victim) == frames.ping(1) + frames.goaway(1, GoAwayStatus.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frames.data_header(0, 0, False), "stream 0"),
        (frames.rst_stream(1, 1)[:7] + b"\4abcd", "4 bytes"),
        (frames.ping(1)[:7] + b"\3abc", "3 bytes"),
        (frames.window_update(1, 0), "0 bytes"),
        (frames.window_update(0, frames.MAX_ID), "31 bits"),
        (frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}), "initial window"),
        (frames.syn_stream(1, b"none"), "inflated"),
        (frames.syn_stream(0, Attacker().block()), "stream 0"),
        (frames.syn_stream(2, Attacker().block()), "stream 2"),
        (b"\x80\x03\0\2\0\0\0\2ab", "at least 4"),
        (b"\x80\x03\0\1\0\0\0\0", "at least 10"),
        (b"\x80\x02" + frames.ping(1)[2:], "version 2"),
    ],
)
def test_what_breaks_a_session(data: bytes, why: str) -> None:
    assert why in Attacker().fails(data)


def test_a_stream_id_that_does_not_rise_costs_that_stream_only() -> None:
    attacker = Attacker(first_id=5)
    attacker.open()
    assert attacker.refuses(frames.syn_stream(3, attacker.block())) == ResetStatus.PROTOCOL_ERROR
    assert attacker.resets(frames.syn_stream(5, attacker.block()))[0] == ResetStatus.PROTOCOL_ERROR


def test_what_breaks_a_stream_of_the_peer() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    attacker.victim.receive(frames.data_header(stream_id, 0, True))
    status, why = attacker.resets(frames.data_header(stream_id, 1, False) + b"x")
    assert (status, why) == (ResetStatus.STREAM_ALREADY_CLOSED, "data on stream 1 after its end")
    bad = attacker.raw_block(b"\0\0\0\1")
    assert attacker.refuses(frames.syn_stream(3, bad)) == ResetStatus.PROTOCOL_ERROR
    assert attacker.refuses(frames.data_header(99, 1, False) + b"x") == ResetStatus.INVALID_STREAM
    assert attacker.refuses(frames.syn_reply(101, attacker.block())) == ResetStatus.INVALID_STREAM
    attacker.next_id = 5
    stream_id = attacker.open()
    reply = frames.syn_reply(stream_id, attacker.block())
    assert attacker.resets(reply)[0] == ResetStatus.STREAM_IN_USE
    attacker.next_id = 7
    stream_id = attacker.open()
    update = frames.window_update(stream_id, frames.MAX_ID)
    assert attacker.resets(update)[0] == ResetStatus.FLOW_CONTROL_ERROR


def test_what_breaks_a_stream_of_ours() -> None:
    attacker = Attacker(first_id=2)
    stream_id = attacker.victim.open_stream(STDIN)
    status, why = attacker.resets(frames.data_header(stream_id, 1, False) + b"x")
    assert (status, why) == (ResetStatus.PROTOCOL_ERROR, "data on stream 1 before its reply")
    stream_id = attacker.victim.open_stream(STDIN)
    attacker.victim.receive(frames.syn_reply(stream_id, attacker.block()))
    assert attacker.resets(frames.syn_reply(stream_id, attacker.block()))[0] == ResetStatus.STREAM_IN_USE


def test_acknowledging_more_than_came_is_a_mistake() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    attacker.victim.receive(frames.data_header(stream_id, 2, False) + b"ab")
    for size in (-1, 3):
        with pytest.raises(SpdyError):
            attacker.victim.acknowledge(stream_id, size)
    attacker.victim.acknowledge(stream_id, 2)


def test_stream_ids_can_be_used_up() -> None:
    pair = Pair()
    pair.client._state.streams._next = frames.MAX_ID
    assert pair.client.open_stream(STDIN) == frames.MAX_ID
    with pytest.raises(SpdyError, match="used"):
        pair.client.open_stream(STDIN)


def test_ping_ids_begin_anew_when_they_are_used_up() -> None:
    pair = Pair()
    pair.client._next_ping, pair.server._next_ping = frames.MAX_ID, frames.MAX_ID - 1
    assert [pair.client.ping(), pair.client.ping()] == [frames.MAX_ID, 1]
    assert [pair.server.ping(), pair.server.ping()] == [frames.MAX_ID - 1, 2]
