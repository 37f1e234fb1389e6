from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.channel_messages import (
    BASE64,
    CHANNEL,
    MAX_CHANNEL,
    UNNAMED,
    V4,
    V4_BASE64,
    V5,
    ChannelProtocol,
    MalformedMessage,
    Message,
    choose,
    decode_message,
    encode_close,
    encode_message,
    is_begun,
    split_names,
)

ALL = (UNNAMED, CHANNEL, BASE64, V4, V4_BASE64, V5)


@given(st.sampled_from(ALL), st.integers(0, MAX_CHANNEL), st.binary(max_size=100))
def test_messages_come_back_as_they_were(protocol: ChannelProtocol, channel: int, data: bytes) -> None:
    message = encode_message(protocol, channel, data)
    assert decode_message(protocol, message) == Message(channel, data)
    assert not protocol.is_text or message.isascii()


def test_messages_are_as_clients_have_them() -> None:
    assert encode_message(CHANNEL, 0, b"foo\n") == b"\0foo\n"
    assert encode_message(BASE64, 1, b"\n") == b"1Cg=="
    assert decode_message(CHANNEL, b"\1") == Message(1, b"")
    assert decode_message(CHANNEL, b"") is None


def test_only_version_5_closes_channels() -> None:
    assert encode_close(V5, 0) == b"\xff\0"
    assert decode_message(V5, b"\xff\0") == Message(0, closes=True)
    with pytest.raises(MalformedMessage):
        encode_close(V4, 0)
    for message in (b"\xff", b"\xff\0\0", b"\xff\xff"):
        with pytest.raises(MalformedMessage):
            decode_message(V5, message)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [(V4, b"\xff\0"), (V4, b"\x50"), (BASE64, b"/aa=="), (BASE64, b"0a"), (BASE64, b"0 Zm8=")],
)
def test_other_messages_are_errors(protocol: ChannelProtocol, message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(protocol, message)


@pytest.mark.parametrize("channel", [-1, MAX_CHANNEL + 1])
def test_channels_have_a_range(channel: int) -> None:
    with pytest.raises(MalformedMessage):
        encode_message(V4, channel, b"")


@given(st.sampled_from(ALL), st.binary(max_size=20))
def test_any_bytes_are_a_message_or_an_error(protocol: ChannelProtocol, message: bytes) -> None:
    try:
        decoded = decode_message(protocol, message)
    except MalformedMessage:
        return
    assert decoded is None or 0 <= decoded.channel <= MAX_CHANNEL


def test_the_client_s_order_chooses() -> None:
    offered = split_names(["v9.channel.k8s.io, v4.base64.channel.k8s.io ,", "v4.channel.k8s.io"])
    assert choose(offered, ALL) is V4_BASE64
    assert choose([], ALL) is UNNAMED
    assert choose(["other"], ALL) is None
    assert choose([], (V4,)) is None


def test_the_beginning_of_a_binary_message_is_enough_but_of_a_half_close() -> None:
    assert is_begun(V5, b"\0")
    assert decode_message(V5, b"\0") == Message(0)
    assert not is_begun(V5, b"")
    assert not is_begun(V5, b"\xff")
    assert is_begun(V4, b"\xff")
    assert not is_begun(BASE64, b"0QUJD")
