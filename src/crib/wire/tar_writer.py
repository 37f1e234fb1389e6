"""Headers of a tar archive, without I/O: a member in, 512-byte blocks out. The same member, the same bytes.

ustar where it suffices, with a PAX extended header before it where it does not. Source: POSIX.1-2017 ``pax``;
star(5) for ``SCHILY.xattr``.
"""

from __future__ import annotations

from collections.abc import Mapping

from crib.wire.tar_member import BLOCK, HEADER, KINDS, Kind, Member
from crib.wire.tar_records import Extent

END = bytes(2 * BLOCK)
"""What an archive ends with."""

_NAME_MAX = 100
_MAGIC = b"ustar\x0000"
_FLAGS = {kind: flag for flag, kind in KINDS.items() if flag.isdigit() and flag != b"7"}
_SMALL = 0o7777777
_LARGE = 0o77777777777
_EXTENDED_NAME = b"././@PaxHeader"
_SPARSE_NAME = b"GNUSparseFile.0/"


def padding(size: int) -> int:
    """Bytes of zeros that follow a member's data."""
    return -size % BLOCK


def member_header(member: Member) -> bytes:
    """All that precedes the member's data (``size`` bytes); its ``offset``, ``stored`` and ``sparse`` say
    nothing here.

    ValueError when a device number is too large for the format.
    """
    return _extended(member, {})


def comment_header(text: bytes) -> bytes:
    """A global extended header with a `comment`, as `git archive` begins one: who unpacks it says nothing."""
    record = _record(b"comment", text)
    member = Member(b"pax_global_header", Kind.FILE, 0o644, 0, 0, 0, 0, len(record), 0, 0)
    return _ustar(member, b"g") + record + bytes(padding(len(record)))


def _extended(member: Member, words: Mapping[bytes, bytes]) -> bytes:
    """The header, and before it these records and those for what does not fit into it."""
    records = _records(member, words)
    head = b""
    if records:
        extended = _ustar(Member(_EXTENDED_NAME, Kind.FILE, 0o644, 0, 0, 0, 0, len(records), 0, 0), b"x")
        head = extended + records + bytes(padding(len(records)))
    return head + _ustar(member, _FLAGS[member.kind])


def sparse_header(member: Member) -> bytes:
    """All that precedes the data of a file with holes: of it only the extents in ``sparse`` are stored, one
    behind the other.

    GNU tar's format 1.0 (GNU tar manual, "PAX Format, Version 1.0"): the map comes as the first data.
    """
    extents = member.sparse or ()
    # GNU tar makes the file end with the last extent.
    if not extents or sum(extents[-1]) < member.size:
        extents = (*extents, Extent(member.size, 0))
    numbers = (len(extents), *(number for extent in extents for number in extent))
    sparse_map = b"".join(b"%d\n" % number for number in numbers)
    sparse_map += bytes(padding(len(sparse_map)))
    stored = len(sparse_map) + sum(extent.length for extent in extents)
    words = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": member.name,
        b"GNU.sparse.realsize": b"%d" % member.size,
    }
    # Who knows nothing of holes unpacks something that is told by its name.
    named = member._replace(name=_SPARSE_NAME + member.name.rpartition(b"/")[2], size=stored)
    return _extended(named, words) + sparse_map


def _ustar(member: Member, flag: bytes) -> bytes:
    major, minor = member.device
    if major > _SMALL or minor > _SMALL:
        raise ValueError(f"device {major}:{minor} is too large for a tar header")
    size = member.size if member.kind is Kind.FILE else 0
    fields = [
        member.name[:_NAME_MAX],
        b"%07o\0" % (member.mode & 0o7777),
        b"%07o\0" % (member.uid if member.uid <= _SMALL else 0),
        b"%07o\0" % (member.gid if member.gid <= _SMALL else 0),
        b"%011o\0" % (size if size <= _LARGE else 0),
        b"%011o\0" % (member.mtime if 0 <= member.mtime <= _LARGE else 0),
        b" " * 8,
        flag,
        member.link[:_NAME_MAX],
        _MAGIC,
        b"%07o\0" % major,
        b"%07o\0" % minor,
        b"",
    ]
    fields[6] = b"%06o\0 " % sum(HEADER.pack(*fields))
    return HEADER.pack(*fields)


def _records(member: Member, words: Mapping[bytes, bytes]) -> bytes:
    """What does not fit into the ustar header, and these."""
    texts = {b"path": member.name, b"linkpath": member.link}
    records = {key: text for key, text in texts.items() if len(text) > _NAME_MAX or not text.isascii()}
    records |= words
    for key, number in ((b"uid", member.uid), (b"gid", member.gid)):
        if number > _SMALL:
            records[key] = b"%d" % number
    if member.kind is Kind.FILE and member.size > _LARGE:
        records[b"size"] = b"%d" % member.size
    if member.mtime_nsec or not 0 <= member.mtime <= _LARGE:
        records[b"mtime"] = _time(member.mtime, member.mtime_nsec)
    for name, value in (member.xattrs or {}).items():
        records[b"SCHILY.xattr." + name] = value
    return b"".join(_record(key, records[key]) for key in sorted(records))


def _record(key: bytes, value: bytes) -> bytes:
    """One record; the length at its beginning counts itself."""
    rest = len(key) + len(value) + len(b" =\n")
    length = rest + len(str(rest))
    if rest + len(str(length)) != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _time(seconds: int, nanoseconds: int) -> bytes:
    """Seconds since the epoch as a decimal fraction; before it, too, ``nanoseconds`` count upwards."""
    if seconds >= 0 or not nanoseconds:
        sign, whole, fraction = b"-" if seconds < 0 else b"", abs(seconds), nanoseconds
    else:
        sign, whole, fraction = b"-", -seconds - 1, 1_000_000_000 - nanoseconds
    text = b"%s%d" % (sign, whole)
    return text + (b".%09d" % fraction).rstrip(b"0") if fraction else text
