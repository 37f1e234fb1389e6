from __future__ import annotations

import pytest

from crib.wire.spdy import (
    DataReceived,
    Limits,
    ResetStatus,
    Setting,
    SettingsReceived,
    SpdyError,
    Windows,
    WindowUpdated,
    frames,
)
from crib.wire.spdy.frames import INITIAL_WINDOW, MAX_LENGTH
from tests.unit.wire.spdy.spdy_lab import Attacker, Pair, data_of, joined

DRAFT = Limits(windows=Windows.ALWAYS)


def data(stream_id: int, size: int) -> bytes:
    return frames.data_header(stream_id, size, False) + bytes(size)


def test_a_peer_without_windows_is_sent_to_and_read_without_them() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    for _ in range(10):
        assert attacker.victim.window(stream_id) == MAX_LENGTH
        attacker.victim.send_data(stream_id, bytes(INITIAL_WINDOW))
        (event,) = attacker.victim.receive(data(stream_id, INITIAL_WINDOW))
        assert isinstance(event, DataReceived)
        attacker.victim.acknowledge(stream_id, len(event.data))
    assert len(joined(attacker.victim)) == 10 * (8 + INITIAL_WINDOW)  # and no update in it


@pytest.mark.parametrize(
    "sign", [frames.window_update(0, 1), frames.window_update(1, 1), frames.settings({4: 100})]
)
def test_a_peer_that_shows_windows_is_obeyed_and_granted_what_it_sent_before(sign: bytes) -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    attacker.victim.send_data(stream_id, bytes(INITIAL_WINDOW))
    attacker.victim.receive(data(stream_id, INITIAL_WINDOW))
    attacker.victim.acknowledge(stream_id, INITIAL_WINDOW)
    attacker.victim.data_to_send()
    attacker.victim.receive(sign)
    assert attacker.victim.window(stream_id) == 0
    updates = frames.window_update(stream_id, INITIAL_WINDOW) + frames.window_update(0, INITIAL_WINDOW)
    assert joined(attacker.victim) == updates
    attacker.victim.receive(frames.window_update(0, 100) + frames.window_update(stream_id, 50))
    assert 50 <= attacker.victim.window(stream_id) <= 51


def test_two_that_keep_windows_pass_any_amount() -> None:
    pair = Pair(DRAFT)
    assert pair.run() == ([SettingsReceived({7: INITIAL_WINDOW})],) * 2
    stream_id = pair.open()
    left, got = 1 << 20, 0
    while left:
        size = min(pair.server.window(stream_id), left, 30_000)
        if size:
            pair.server.send_data(stream_id, bytes(size))
            left -= size
        else:
            assert pair.server.window(stream_id) == 0
            with pytest.raises(SpdyError, match="window"):
                pair.server.send_data(stream_id, b"x")
            pair.client.acknowledge(stream_id, got)
            got = 0
        at_client, at_server = pair.run()
        got += len(data_of(at_client, stream_id))
        assert got <= INITIAL_WINDOW
        assert all(isinstance(event, WindowUpdated) for event in at_server)


def test_the_session_s_window_holds_back_all_streams() -> None:
    pair = Pair(DRAFT)
    first, second = pair.open(), pair.open()
    pair.server.send_data(first, bytes(40_000))
    assert pair.server.window(second) == INITIAL_WINDOW - 40_000
    pair.server.send_data(second, bytes(INITIAL_WINDOW - 40_000))
    pair.run()
    pair.client.acknowledge(first, 40_000)
    assert pair.run()[1] == [WindowUpdated(first), WindowUpdated(0)]
    assert pair.server.window(second) == 40_000


@pytest.mark.parametrize("ended", ["reset by us", "reset by the peer", "unknown"])
def test_data_of_ended_streams_is_granted_again_on_the_session(ended: str) -> None:
    attacker = Attacker(DRAFT)
    stream_id = attacker.open()
    half = data(stream_id, INITIAL_WINDOW // 2)
    if ended == "unknown":
        attacker.victim.receive(frames.rst_stream(stream_id, 5))
        attacker.victim.receive(half)
    else:
        attacker.victim.receive(half)
        if ended == "reset by us":
            attacker.victim.reset(stream_id)
        else:
            attacker.victim.receive(frames.rst_stream(stream_id, 5))
    assert frames.window_update(0, INITIAL_WINDOW // 2) in joined(attacker.victim)


def test_data_beyond_a_stream_s_window_resets_it_in_the_draft_s_mode() -> None:
    attacker = Attacker(DRAFT)
    first, second = attacker.open(), attacker.open()
    attacker.victim.receive(data(first, INITIAL_WINDOW - 1))
    attacker.victim.acknowledge(first, INITIAL_WINDOW - 1)
    attacker.victim.data_to_send()
    attacker.victim.receive(data(second, 5))  # the session has room, as has the stream
    attacker.victim._state.streams.get(first).incoming.left = 3
    assert attacker.resets(data(first, 4))[0] == ResetStatus.FLOW_CONTROL_ERROR


def test_data_beyond_the_session_s_window_fails_it_in_the_draft_s_mode() -> None:
    attacker = Attacker(DRAFT)
    first, second = attacker.open(), attacker.open()
    attacker.victim.receive(data(first, INITIAL_WINDOW))
    assert "window" in attacker.fails(data(second, 1))


def test_a_smaller_initial_window_counts_for_open_streams_too() -> None:
    attacker = Attacker()
    stream_id = attacker.open()
    attacker.victim.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1000}))
    assert attacker.victim.window(stream_id) == 1000
    attacker.victim.send_data(stream_id, bytes(900))
    attacker.victim.receive(frames.settings({Setting.INITIAL_WINDOW_SIZE: 500}))
    assert attacker.victim.window(stream_id) == 0
    attacker.victim.send_data(stream_id, b"", fin=True)
    attacker.victim.receive(frames.window_update(stream_id, 500))


def test_updates_come_for_half_a_window_and_never_pile_up() -> None:
    attacker = Attacker(DRAFT)
    stream_id = attacker.open()
    for _ in range(INITIAL_WINDOW // 1024):
        attacker.victim.receive(data(stream_id, 1024))
        attacker.victim.acknowledge(stream_id, 1024)
    assert joined(attacker.victim) == (
        frames.window_update(stream_id, INITIAL_WINDOW) + frames.window_update(0, INITIAL_WINDOW)
    )
    attacker.victim.receive(data(stream_id, 1024))
    attacker.victim.acknowledge(stream_id, 1024)
    assert joined(attacker.victim) == b""


def test_a_stream_whose_end_came_gets_no_update() -> None:
    attacker = Attacker(DRAFT)
    stream_id = attacker.open()
    attacker.victim.receive(frames.data_header(stream_id, INITIAL_WINDOW, True) + bytes(INITIAL_WINDOW))
    attacker.victim.acknowledge(stream_id, INITIAL_WINDOW)
    assert joined(attacker.victim) == frames.window_update(0, INITIAL_WINDOW)
