"""Reads a damaged SQLite file without its index: every row of every page that is still valid.

SQLite itself stops at the first invalid page, and loses everything that this page leads to. Here each page is
read on its own. Format of file and log: https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Value = None | int | float | str | bytes

MAX_VALUE = 64 << 20
"""Bytes of one row at most; a length beyond that is damage."""
_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_USUAL_PAGE = 4096
_PAGE_SIZES = frozenset(1 << power for power in range(9, 17))
_INDEX_INSIDE, _INDEX_LEAF, _TABLE_LEAF = 0x02, 0x0A, 0x0D
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Torn(ValueError):
    """It is not what the format says."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row. In a table WITHOUT ROWID its key comes first among the values, and `number` is None."""

    number: int | None
    values: tuple[Value, ...]


def rows(database: bytes, log: bytes = b"") -> Iterator[Row]:
    """The rows of all pages, with what a write-ahead log has committed; free pages are left out if known."""
    size = _page_size(database, log)
    pages = _pages(database, log, size)
    free = _free(pages)
    for number in sorted(pages):
        if number not in free:
            yield from _rows_of(pages, number)


def _page_size(database: bytes, log: bytes) -> int:
    told = []
    if database.startswith(_MAGIC):
        size = int.from_bytes(database[16:18], "big")
        told.append(65536 if size == 1 else size)
    if len(log) >= 32 and int.from_bytes(log[:4], "big") in _WAL_MAGIC:
        told.append(int.from_bytes(log[8:12], "big"))
    return next((size for size in told if size in _PAGE_SIZES), _USUAL_PAGE)


def _pages(database: bytes, log: bytes, size: int) -> dict[int, bytes]:
    found = {at // size + 1: database[at : at + size] for at in range(0, len(database) - size + 1, size)}
    if len(log) < 32 or int.from_bytes(log[:4], "big") not in _WAL_MAGIC:
        return found
    salts = log[16:24]
    pending: dict[int, bytes] = {}
    for at in range(32, len(log) - size - 23, size + 24):
        number, committed = struct.unpack(">II", log[at : at + 8])
        if log[at + 8 : at + 16] != salts:
            break
        pending[number] = log[at + 24 : at + 24 + size]
        if committed:
            found.update(pending)
            pending.clear()
    return found


def _free(pages: Mapping[int, bytes]) -> set[int]:
    """Pages on the freelist: what they hold was deleted."""
    head = pages.get(1, b"")
    free: set[int] = set()
    if not head.startswith(_MAGIC):
        return free
    trunk = int.from_bytes(head[32:36], "big")
    while trunk in pages and trunk not in free:
        free.add(trunk)
        following, count = struct.unpack(">II", pages[trunk][:8])
        most = min(count, len(pages[trunk]) // 4 - 2)
        free.update(struct.unpack(f">{most}I", pages[trunk][8 : 8 + 4 * most]))
        trunk = following
    return free


def _rows_of(pages: Mapping[int, bytes], number: int) -> Iterator[Row]:
    page = pages[number]
    begin = 100 if number == 1 else 0
    kind = page[begin]
    if kind not in (_INDEX_INSIDE, _INDEX_LEAF, _TABLE_LEAF):
        return
    count = int.from_bytes(page[begin + 3 : begin + 5], "big")
    first = begin + (12 if kind == _INDEX_INSIDE else 8)
    for at in range(first, first + 2 * min(count, len(page) // 4), 2):
        cell = int.from_bytes(page[at : at + 2], "big")
        try:
            yield _row(pages, page, cell, kind)
        except (Torn, IndexError, struct.error, UnicodeDecodeError):
            continue


def _row(pages: Mapping[int, bytes], page: bytes, at: int, kind: int) -> Row:
    if kind == _INDEX_INSIDE:
        at += 4
    length, at = _number(page, at)
    rowid = None
    if kind == _TABLE_LEAF:
        rowid, at = _number(page, at)
    if length > MAX_VALUE:
        raise Torn("too long")
    return Row(rowid, _values(_payload(pages, page, at, (length, kind))))


def _payload(pages: Mapping[int, bytes], page: bytes, at: int, what: tuple[int, int]) -> bytes:
    """The row's bytes: those in the page, then the chain of overflow pages (file format, 1.6)."""
    length, kind = what
    usable = len(page)
    most = usable - 35 if kind == _TABLE_LEAF else (usable - 12) * 64 // 255 - 23
    if length <= most:
        return _exactly(page[at : at + length], length)
    least = (usable - 12) * 32 // 255 - 23
    local = least + (length - least) % (usable - 4)
    local = local if local <= most else least
    parts = [_exactly(page[at : at + local], local)]
    following, left = int.from_bytes(_exactly(page[at + local : at + local + 4], 4), "big"), length - local
    while left > 0:
        overflow = pages.get(following)
        if overflow is None:
            raise Torn("a part of the row is missing")
        parts.append(overflow[4 : 4 + min(left, usable - 4)])
        left -= len(parts[-1])
        following = int.from_bytes(overflow[:4], "big")
    return b"".join(parts)


def _values(payload: bytes) -> tuple[Value, ...]:
    header, at = _number(payload, 0)
    kinds = []
    while at < header:
        kind, at = _number(payload, at)
        kinds.append(kind)
    at = header
    found: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        found.append(value)
    if not found or at != len(payload):
        raise Torn("columns and row differ in length")
    return tuple(found)


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind == 7:
        return struct.unpack(">d", payload[at : at + 8])[0], at + 8
    if size := _INTEGER_BYTES.get(kind):
        return int.from_bytes(_exactly(payload[at : at + size], size), "big", signed=True), at + size
    if kind < 12:
        raise Torn("a reserved kind of column")
    size = (kind - 12) // 2
    raw = _exactly(payload[at : at + size], size)
    return (raw.decode() if kind % 2 else raw), at + size


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = 0
    for position in range(at, at + 8):
        byte = data[position]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, position + 1
    return value << 8 | data[at + 8], at + 9


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise Torn("it ends too early")
    return data
