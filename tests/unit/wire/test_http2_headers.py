"""Headers of HTTP/2, with the examples of RFC 7541, appendix C."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.http2 import huffman
from crib.wire.http2.hpack import BadHeaders, HeaderReader, literal, size_of
from crib.wire.http2.huffman import BadString, unpacked

FIRST = ((":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"))
SECOND = (*FIRST, ("cache-control", "no-cache"))
THIRD = (
    *((":method", "GET"), (":scheme", "https"), (":path", "/index.html"), (":authority", "www.example.com")),
    ("custom-key", "custom-value"),
)


@pytest.mark.parametrize(
    "blocks",
    [
        (
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ),
        (
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ),
    ],
    ids=["plain", "packed"],
)
def test_blocks_of_the_appendix_are_read_in_their_order(blocks: tuple[str, ...]) -> None:
    reader = HeaderReader()
    assert [reader.read(bytes.fromhex(block)) for block in blocks] == [FIRST, SECOND, THIRD]
    assert size_of(SECOND[-1:]) == 53  # as C.3.2 counts it


def test_what_falls_out_of_the_table_is_no_longer_there() -> None:
    reader = HeaderReader()
    reader.read(bytes.fromhex("3f11") + b"\x40\x01a\x01b" + b"\x40\x01c\x01d")  # 48 bytes: room for one
    assert reader.read(b"\xbe") == (("c", "d"),)
    with pytest.raises(BadHeaders):
        reader.read(b"\xbf")


def test_a_block_that_is_known_is_read_anew_once_the_table_has_changed() -> None:
    reader = HeaderReader()
    reader.read(b"\x40\x01a\x01b")
    assert reader.read(b"\xbe") == reader.read(b"\xbe") == (("a", "b"),)
    reader.read(b"\x40\x01c\x01d")
    assert reader.read(b"\xbe") == (("c", "d"),)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # entry 0
        b"\xff\xff\xff\xff\xff\xff\x01",  # a number without an end
        b"\x00\x05ab",  # a string that goes beyond its block
        b"\x00",  # no string at all
        b"\x82\x3f\x00",  # a size of the table behind a header
        b"\x3f\xe2\x1f",  # a table of 4097 bytes
        b"\x00\x01a\x81\x00",  # padding of zeros
    ],
)
def test_a_block_that_cannot_be_read_is_refused(block: bytes) -> None:
    with pytest.raises(BadHeaders):
        HeaderReader().read(block)


@given(st.binary(max_size=200))
def test_any_bytes_are_headers_or_refused(block: bytes) -> None:
    try:
        assert isinstance(HeaderReader().read(block), tuple)
    except BadHeaders:
        pass


@given(st.text(st.characters(max_codepoint=255), max_size=300), st.text("a-z", max_size=200))
def test_what_is_written_is_read_again(value: str, name: str) -> None:
    assert HeaderReader().read(literal(name, value)) == ((name, value),)


def test_the_code_has_no_hole() -> None:
    assert sum(Fraction(1, 1 << bits) for bits in huffman._LENGTHS) == 1
    assert len(huffman._SYMBOLS) == 257


@pytest.mark.parametrize("packed", [b"\xff\xff\xff\xff", b"\x00", b"\xff"])
def test_a_string_that_is_not_packed_so_is_refused(packed: bytes) -> None:
    """The end within it, padding that is not ones, and a whole byte of padding."""
    with pytest.raises(BadString):
        unpacked(packed)
