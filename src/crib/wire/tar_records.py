"""The small grammars inside a tar archive: numbers, PAX records, sparse maps.

Sources: POSIX.1-2017 ``pax`` (ustar and extended headers), the GNU tar manual, "Basic Tar Format",
"Extensions to the Standard" and "Storing Sparse Files". Every function raises ValueError with a short reason;
the reader adds the member and the offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MAX_EXTENTS = 262_144
"""Most data extents of one sparse member: what a sparse map of 1 MiB can hold at four bytes an extent."""

_DECIMAL_DIGITS = 20


class Extent(NamedTuple):
    """A run of stored bytes of a sparse member: where it belongs in the file, and its length (bytes)."""

    offset: int
    length: int


class SparseMap(NamedTuple):
    """The size of a sparse member once expanded (bytes), and its data extents in rising order."""

    size: int
    extents: tuple[Extent, ...]


def parse_number(field: bytes) -> int:
    """A numeric header field: octal text, or GNU base-256 (first bit set, two's complement)."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    # int() alone would take signs, underscores and an 0o prefix.
    if not text.isdigit():
        raise ValueError(f"not an octal number: {field!r}")
    return int(text, 8)


def parse_decimal(text: bytes) -> int:
    """A whole number in decimal digits, as PAX records and sparse maps write it."""
    if not text.isdigit() or len(text) > _DECIMAL_DIGITS:
        raise ValueError(f"not a decimal number: {text[:32]!r}")
    return int(text)


def parse_time(text: bytes) -> tuple[int, int]:
    """A PAX time, e.g. ``-1.5``, as seconds since the epoch (rounded down) and nanoseconds."""
    negative = text.startswith(b"-")
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    seconds = parse_decimal(whole) if whole else 0
    nanoseconds = parse_decimal(fraction[:9].ljust(9, b"0")) if fraction else 0
    if not negative:
        return seconds, nanoseconds
    return (-seconds - 1, 1_000_000_000 - nanoseconds) if nanoseconds else (-seconds, 0)


def parse_pax(payload: bytes) -> list[tuple[bytes, bytes]]:
    """The records (``"%d %s=%s\\n"``) of an extended header, in order; a key may occur more than once."""
    records: list[tuple[bytes, bytes]] = []
    position = 0
    end = len(payload)
    while position < end:
        space = payload.find(b" ", position, position + _DECIMAL_DIGITS)
        if space < 0:
            # Some writers pad the records with NUL instead of counting them in the size.
            if not payload[position:].strip(b"\0"):
                break
            raise ValueError("extended header record without a length")
        length = parse_decimal(payload[position:space])
        stop = position + length
        equals = payload.find(b"=", space, stop)
        if stop > end or equals < 0 or payload[stop - 1] != 0x0A:
            raise ValueError(f"extended header record at byte {position} is malformed")
        key = payload[space + 1 : equals]
        if not key:
            raise ValueError(f"extended header record at byte {position} has no keyword")
        records.append((key, payload[equals + 1 : stop - 1]))
        position = stop
    return records


def sparse_map(size: int, numbers: Iterable[int]) -> SparseMap:
    """The map made of ``offset, length, offset, length, …``; extents must rise and end within ``size``."""
    flat = list(numbers)
    if len(flat) % 2 or len(flat) > 2 * MAX_EXTENTS:
        raise ValueError(f"sparse map of {len(flat)} numbers")
    extents = []
    reached = 0
    for offset, length in zip(flat[::2], flat[1::2], strict=True):
        if offset < reached or length < 0 or offset + length > size:
            raise ValueError(f"sparse extent {offset}+{length} overlaps another or passes the size {size}")
        reached = offset + length
        if length:
            extents.append(Extent(offset, length))
    return SparseMap(size, tuple(extents))


def old_gnu_pairs(block: bytes, start: int, count: int) -> list[int]:
    """The numbers of ``count`` 24-byte sparse structs of the old GNU format; an empty one ends the list."""
    numbers: list[int] = []
    for at in range(start, start + 24 * count, 24):
        if not block[at] or not block[at + 12]:
            break
        numbers += (parse_number(block[at : at + 12]), parse_number(block[at + 12 : at + 24]))
    return numbers


def pax_sparse_numbers(records: list[tuple[bytes, bytes]]) -> list[int] | None:
    """The sparse map that PAX format 0.0 (repeated records) or 0.1 (one record) holds; None without one."""
    repeated = [value for key, value in records if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]
    if repeated:
        return [parse_decimal(value) for value in repeated]
    for key, value in records:
        if key == b"GNU.sparse.map":
            return [parse_decimal(part) for part in value.split(b",")] if value else []
    return None


def stored_sparse_lines(block: bytes) -> int:
    """How many lines the sparse map of PAX format 1.0 has, by its first block: a count, two an extent."""
    count = parse_decimal(block[: _DECIMAL_DIGITS + 1].partition(b"\n")[0])
    if count > MAX_EXTENTS:
        raise ValueError(f"sparse map of {count} extents, at most {MAX_EXTENTS} are taken")
    return 1 + 2 * count


def stored_sparse_numbers(blocks: bytes) -> list[int]:
    """The numbers of a whole sparse map of PAX format 1.0 (before the data, one number a line)."""
    return [parse_decimal(line) for line in blocks.split(b"\n")[1 : stored_sparse_lines(blocks)]]
