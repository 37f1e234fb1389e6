"""Header blocks: names and values, compressed with one zlib stream for each direction of a session.

Source: SPDY draft 3, 2.6.10 (name/value header block, compression). A block is a count, then for each name
its length, the name, the length of its values and the values, joined by NUL; lengths have 32 bits. The zlib
stream of a direction begins with a dictionary that both sides know, and each block ends with a sync flush.

Liberal in what is read (names in any case), strict in what is written.
"""

from __future__ import annotations

import re
import struct
import zlib

from crib.wire.spdy.limits import Limits

Headers = tuple[tuple[str, str], ...]
"""Names in lower case and values, in order; a name with several values comes as often. Bytes are Latin-1."""

_WORD = struct.Struct(">I")
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date etag "
    "expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since "
    "last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer "
    "retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate "
    "method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"
)
_CODES = (
    "100 101 201 202 205 206 300 302 303 304 305 306 307 402 405 406 407 408 409 410 411 412 413 414 415 "
    "416 417 502 504 505"
)
_PHRASES = (
    "203 Non-Authoritative Information" "204 No Content" "301 Moved Permanently" "400 Bad Request"
    "401 Unauthorized" "403 Forbidden" "404 Not Found" "500 Internal Server Error" "501 Not Implemented"
    "503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,public" "privatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)  # fmt: skip
DICTIONARY = (
    b"".join(_WORD.pack(len(word)) + word.replace("_", " ").encode() for word in _WORDS.split())
    + _CODES.replace(" ", "").encode()
    + _PHRASES.encode()
)
"""What both zlib streams of a session know from the start: 1423 bytes with the Adler-32 e3c6a7c2."""

_WINDOW_BITS = 11
"""A window of 2 KiB, as header blocks are short: a session's deflate state has 9 KiB instead of 256."""
_MEMORY_LEVEL = 1
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
FORBIDDEN = frozenset(("connection", "host", "keep-alive", "proxy-connection", "transfer-encoding"))
"""Names that the draft (3.2.1) forbids and peers take for an error that ends the session."""


class MalformedHeaders(ValueError):
    """The names and values cannot be read, or are refused.

    The zlib stream continues: other blocks can follow.
    """


class BrokenCompression(ValueError):
    """The zlib stream is broken or inflates too far: no further block of this direction can be read."""


def first(headers: Headers, name: str) -> str | None:
    """The first value of a header; names in any case are the same."""
    name = name.lower()
    return next((value for key, value in headers if key.lower() == name), None)


class HeaderDeflater:
    """Plain bytes to blocks, in the order in which the blocks are sent."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(
            zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zdict=DICTIONARY
        )

    def deflate(self, plain: bytes) -> bytes:
        """One block for plain bytes. It must be sent, or the peer cannot read the next ones."""
        return self._zlib.compress(plain) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderInflater:
    """Blocks to plain bytes; every block of a session has to pass, also those of unwanted streams."""

    def __init__(self, max_bytes: int) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)
        self._max = max_bytes

    def inflate(self, block: bytes) -> bytes:
        """The plain bytes of a block; BrokenCompression."""
        try:
            plain = self._zlib.decompress(block, self._max + 1)
        except zlib.error as error:
            raise BrokenCompression(f"a header block cannot be inflated: {error}") from error
        if len(plain) > self._max:
            raise BrokenCompression(f"a header block has more than {self._max} bytes")
        if self._zlib.eof or self._zlib.unconsumed_tail:
            raise BrokenCompression("the stream of header blocks has ended within a session")
        return plain


def pack_headers(headers: Headers) -> bytes:
    """Plain bytes of a header block; MalformedHeaders when a name or value cannot be sent.

    Names are written in lower case, values of one name are joined.
    """
    values: dict[str, list[str]] = {}
    for name, value in headers:
        lower = name.lower()
        if _NAME.fullmatch(lower) is None or lower in FORBIDDEN:
            raise MalformedHeaders(f"a header cannot be named {name[:100]!r}")
        if "\0" in value:
            raise MalformedHeaders(f"the value of header {name!r} has a NUL")
        values.setdefault(lower, []).append(value)
    parts = [_WORD.pack(len(values))]
    try:
        for name, several in values.items():
            parts += _sized(name.encode("ascii")), _sized("\0".join(several).encode("latin-1"))
    except UnicodeEncodeError as error:
        raise MalformedHeaders(f"headers cannot be sent: {error}") from error
    return b"".join(parts)


def unpack_headers(plain: bytes, limits: Limits) -> Headers:
    """Names and values of a header block; MalformedHeaders."""
    count, at = _number(plain, 0)
    if count > limits.max_headers:
        raise MalformedHeaders(f"{count} headers, at most {limits.max_headers} are taken")
    headers: dict[str, str] = {}
    for _ in range(count):
        raw, at = _text(plain, at, limits.max_header_name)
        value, at = _text(plain, at, limits.max_header_value)
        name = raw.lower()
        if not name or name in headers:
            raise MalformedHeaders(f"header name {name[:100]!r} is empty or appears twice")
        headers[name] = value
    if at != len(plain):
        raise MalformedHeaders(f"{len(plain) - at} bytes after the last header")
    return tuple((name, value) for name, joined in headers.items() for value in joined.split("\0"))


def _sized(data: bytes) -> bytes:
    return _WORD.pack(len(data)) + data


def _number(plain: bytes, at: int) -> tuple[int, int]:
    if at + _WORD.size > len(plain):
        raise MalformedHeaders("a header block ends within a number")
    return int(_WORD.unpack_from(plain, at)[0]), at + _WORD.size


def _text(plain: bytes, at: int, most: int) -> tuple[str, int]:
    length, at = _number(plain, at)
    if length > min(most, len(plain) - at):
        raise MalformedHeaders(f"a name or value of {length} bytes, at most {most} are taken")
    return plain[at : at + length].decode("latin-1"), at + length
