"""NRI's multiplexer without a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire import mux


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=9000)), max_size=6), st.integers(1, 5000))
def test_messages_cut_anywhere_arrive_on_their_connections(
    messages: list[tuple[int, bytes]], size: int
) -> None:
    wire = b"".join(mux.frames(connection, message) for connection, message in messages)
    reader = mux.MuxReader()
    got = dict.fromkeys(range(4), b"")
    for at in range(0, len(wire), size):
        for connection, piece in reader.receive(wire[at : at + size]):
            got[connection] += piece
    assert got == {
        number: b"".join(message for connection, message in messages if connection == number)
        for number in range(4)
    }


def test_a_message_begins_with_a_frame_that_a_peer_in_go_can_take() -> None:
    """Its reader has 4096 bytes for the begin of a message, and takes the rest in one piece."""
    message = bytes(range(256)) * 40
    data = mux.frames(7, message)
    assert data == (
        (7).to_bytes(4, "big")
        + (4096).to_bytes(4, "big")
        + message[:4096]
        + (7).to_bytes(4, "big")
        + (len(message) - 4096).to_bytes(4, "big")
        + message[4096:]
    )


def test_a_message_that_fits_is_one_frame_even_if_it_is_empty() -> None:
    assert mux.frames(1, bytes(4096)) == b"\0\0\0\x01\0\0\x10\0" + bytes(4096)
    assert mux.frames(1, b"") == b"\0\0\0\x01\0\0\0\0"


def test_an_empty_frame_carries_nothing() -> None:
    reader = mux.MuxReader()
    assert list(reader.receive(b"\0\0\0\x01\0\0\0\0" + mux.frames(2, b"x"))) == [(2, b"x")]


def test_a_length_that_no_frame_has_is_malformed() -> None:
    longest = mux.MAX_PAYLOAD_BYTES
    assert list(mux.MuxReader().receive(b"\0\0\0\x01" + longest.to_bytes(4, "big") + b"x")) == [(1, b"x")]
    with pytest.raises(mux.Malformed, match=f"{longest + 1} bytes on connection 1"):
        list(mux.MuxReader().receive(b"\0\0\0\x01" + (longest + 1).to_bytes(4, "big")))


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(ValueError, match="at most"):
        mux.frames(1, bytes(mux.MAX_PAYLOAD_BYTES + 1))
