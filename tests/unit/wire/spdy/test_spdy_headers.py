from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.spdy import Headers, Limits, first
from crib.wire.spdy.headers import (
    DICTIONARY,
    FORBIDDEN,
    BrokenCompression,
    HeaderDeflater,
    HeaderInflater,
    MalformedHeaders,
    pack_headers,
    unpack_headers,
)

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20).filter(
    lambda name: name not in FORBIDDEN
)
VALUES = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40)
BLOCKS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple)


def word(number: int) -> bytes:
    return number.to_bytes(4, "big")


def test_the_dictionary_is_the_draft_s() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


@given(st.lists(BLOCKS, min_size=1, max_size=5))
def test_blocks_come_back_as_they_were(blocks: list[Headers]) -> None:
    deflater, inflater = HeaderDeflater(), HeaderInflater(1 << 20)
    for headers in blocks:
        back = unpack_headers(inflater.inflate(deflater.deflate(pack_headers(headers))), Limits())
        names = list(dict.fromkeys(name for name, _ in headers))
        assert back == tuple((name, value) for name in names for key, value in headers if key == name)


def test_later_blocks_need_the_earlier_ones() -> None:
    deflater = HeaderDeflater()
    deflater.deflate(pack_headers((("streamtype", "stdin"),)))
    later = deflater.deflate(pack_headers((("streamtype", "stdin"),)))
    with pytest.raises(BrokenCompression):
        HeaderInflater(1 << 20).inflate(later)


def test_names_are_written_and_read_in_lower_case() -> None:
    assert pack_headers((("streamType", "error"),)) == pack_headers((("streamtype", "error"),))
    plain = pack_headers((("port", "80"),)).replace(b"port", b"PoRt")
    assert unpack_headers(plain, Limits()) == (("port", "80"),)
    assert first((("a", "1"), ("port", "80"), ("port", "81")), "Port") == "80"
    assert first((), "port") is None


@pytest.mark.parametrize(
    "headers",
    [
        (("", "x"),),
        (("a b", "x"),),
        (("a\0", "x"),),
        (("ä", "x"),),
        (("Host", "x"),),
        (("a", "\0"),),
        (("a", "€"),),
    ],
)
def test_headers_that_cannot_be_sent_are_errors(headers: Headers) -> None:
    with pytest.raises(MalformedHeaders):
        pack_headers(headers)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\0\0\0",
        word(1),
        word(1) + word(5) + b"abc",
        word(1) + word(0) + word(0),
        word(2) + (word(1) + b"a" + word(0)) * 2,
        word(2) + word(1) + b"a" + word(0) + word(1) + b"A" + word(0),
        word(0) + b"x",
        word(1) + word(1) + b"a" + word(0xFFFFFFFF),
        word(0xFFFFFFFF),
    ],
)
def test_blocks_that_cannot_be_read_are_errors(plain: bytes) -> None:
    with pytest.raises(MalformedHeaders):
        unpack_headers(plain, Limits())


@given(st.binary(max_size=200))
def test_any_bytes_are_headers_or_an_error(plain: bytes) -> None:
    try:
        headers = unpack_headers(plain, Limits())
    except MalformedHeaders:
        return
    assert all(name == name.lower() for name, _ in headers)


def test_inflating_stops_at_the_limit() -> None:
    bomb = HeaderDeflater().deflate(bytes(1 << 20))
    assert len(bomb) < 8 << 10
    with pytest.raises(BrokenCompression, match="more than 100 bytes"):
        HeaderInflater(100).inflate(bomb)
    exact = HeaderInflater(100)
    deflater = HeaderDeflater()
    assert len(exact.inflate(deflater.deflate(bytes(100)))) == 100
    with pytest.raises(BrokenCompression):
        exact.inflate(deflater.deflate(bytes(101)))


def test_a_zlib_stream_that_ends_is_an_error() -> None:
    ended = zlib.compressobj(zdict=DICTIONARY)
    block = ended.compress(word(0)) + ended.flush(zlib.Z_FINISH)
    with pytest.raises(BrokenCompression, match="ended"):
        HeaderInflater(100).inflate(block)


@pytest.mark.parametrize("block", [b"\0\0\0\0", b"\x78\x9c" + bytes(10)])
def test_other_bytes_and_other_dictionaries_are_errors(block: bytes) -> None:
    with pytest.raises(BrokenCompression):
        HeaderInflater(100).inflate(block)
