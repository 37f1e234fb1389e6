"""Headers of HTTP/2 (HPACK, RFC 7541): those that come are unpacked, those that go are written out.

What is written refers to no table of the other end, so there is nothing to keep in step with it.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from crib.wire.http2.huffman import BadString, unpacked

Header: TypeAlias = tuple[str, str]
Headers: TypeAlias = tuple[Header, ...]

TABLE_BYTES = 4096
"""Size of the table of a connection, which a client may make smaller (section 4.2)."""
ENTRY_BYTES = 32
"""What an entry counts beside its text (section 4.1)."""
BLOCKS_KEPT = 64
BLOCK_BYTES = 512
"""How many blocks are kept with what they say, and how long they are at most."""
_INTEGER_BYTES = 5
"""Most of one number, beyond its prefix."""
_STATIC: Headers = (
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    *((":status", code) for code in ("200", "204", "206", "304", "400", "404", "500")),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    *(
        (name, "")
        for name in (
            *("accept-language", "accept-ranges", "accept", "access-control-allow-origin", "age", "allow"),
            *("authorization", "cache-control", "content-disposition", "content-encoding"),
            *("content-language", "content-length", "content-location", "content-range", "content-type"),
            *("cookie", "date", "etag", "expect", "expires", "from", "host", "if-match"),
            *("if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-modified"),
            *("link", "location", "max-forwards", "proxy-authenticate", "proxy-authorization", "range"),
            *("referer", "refresh", "retry-after", "server", "set-cookie", "strict-transport-security"),
            *("transfer-encoding", "user-agent", "vary", "via", "www-authenticate"),
        )
    ),
)


class BadHeaders(ValueError):
    """The block cannot be read, and nothing that comes after it on the connection."""


class HeaderReader:
    """Reads the blocks of one connection, in the order in which they come."""

    def __init__(self) -> None:
        self._table: deque[Header] = deque()
        self._size, self._limit = 0, TABLE_BYTES
        self._kept: dict[bytes, Headers] = {}
        """By blocks that refer to the table as it is now, and leave it so."""

    def read(self, block: bytes) -> Headers:
        """What it says. Raises BadHeaders."""
        known = self._kept.get(block)
        if known is not None:
            return known
        try:
            found, changes = self._read(block)
        except (IndexError, BadString, UnicodeDecodeError) as error:
            raise BadHeaders(f"a block of {len(block)} bytes: {error}") from error
        if changes:
            self._kept.clear()
        elif len(block) <= BLOCK_BYTES and len(self._kept) < BLOCKS_KEPT:
            self._kept[block] = found
        return found

    def _read(self, block: bytes) -> tuple[Headers, bool]:
        found: list[Header] = []
        at, changes = 0, False
        while at < len(block):
            first = block[at]
            if first & 0x80:  # indexed
                index, at = _integer(block, at, 7)
                found.append(self._entry(index))
            elif first & 0xE0 == 0x20:  # a new size of the table
                size, at = _integer(block, at, 5)
                if found or size > TABLE_BYTES:
                    raise BadHeaders("a size of the table where none may be, or above what it may have")
                self._limit, changes = size, True
                self._evict()
            else:
                indexing = first & 0xC0 == 0x40
                index, at = _integer(block, at, 6 if indexing else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                found.append((name, value))
                if indexing:
                    self._add((name, value))
                    changes = True
        return tuple(found), changes

    def _entry(self, index: int) -> Header:
        if index == 0:
            raise BadHeaders("there is no entry 0")
        return _STATIC[index - 1] if index <= len(_STATIC) else self._table[index - len(_STATIC) - 1]

    def _add(self, header: Header) -> None:
        self._table.appendleft(header)
        self._size += _size(header)
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            self._size -= _size(self._table.pop())


def _size(header: Header) -> int:
    return len(header[0]) + len(header[1]) + ENTRY_BYTES


def size_of(headers: Headers) -> int:
    """As SETTINGS_MAX_HEADER_LIST_SIZE counts."""
    return sum(map(_size, headers))


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """A number with a prefix of so many bits, and where it ends (section 5.1)."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for count in range(_INTEGER_BYTES):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << 7 * count
        if not byte & 0x80:
            return value, at
    raise BadHeaders("a number is too long")


def _string(block: bytes, at: int) -> tuple[str, int]:
    """Text, and where it ends (section 5.2)."""
    is_packed = block[at] & 0x80
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise BadHeaders("a string ends behind its block")
    raw = block[at:end]
    return (unpacked(raw) if is_packed else raw).decode("latin-1"), end


def literal(name: str, value: str) -> bytes:
    """A header as it is written out, not to be put into a table (section 6.2.2)."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    length = len(raw)
    if length < 0x7F:
        return bytes((length,)) + raw
    head, length = bytearray((0x7F,)), length - 0x7F
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + raw
