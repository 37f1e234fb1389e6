"""Reading a tar archive without I/O: bytes in, members out.

``TarReader.receive_data`` takes the archive in pieces of any size and returns the members whose headers it
has seen; the data of members is skipped, never copied: ``Member.offset`` and ``Member.stored`` say where
it lies in the archive. ustar, PAX, GNU long names, GNU and PAX sparse members, base-256 numbers.

Global extended headers are passed over, as every runtime that reads layers with Go's archive/tar does: what
they say would have to be applied to each member, and no image can rest on it.

Sources: POSIX.1-2017 ``pax``; the GNU tar manual, "Tar Internals"; star(5) for ``SCHILY.xattr``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from crib.wire.tar_member import (
    BLOCK,
    HEADER,
    KINDS,
    Kind,
    Member,
    amended,
    check_member,
    check_size,
    check_sum,
    prefixed,
    printable,
)
from crib.wire.tar_records import (
    SparseMap,
    old_gnu_pairs,
    parse_decimal,
    parse_number,
    parse_pax,
    pax_sparse_numbers,
    sparse_map,
    stored_sparse_lines,
    stored_sparse_numbers,
)

MAX_EXTENDED = 1 << 20
"""Largest extended header, long name or sparse map (bytes)."""
MAX_MEMBERS = 5_000_000
"""Maximum members of one archive, unless the reader is given another number."""

_ZERO = bytes(BLOCK)
_CACHED_NUMBERS = 8_192
_EXTENSIONS = b"xXLK"
_PASSED_OVER = b"Vg"
"""A GNU volume label says nothing about files; for global extended headers see above."""


class TarError(ValueError):
    """The bytes are not a tar archive that can be taken; the message names the member and the offset."""


@dataclass(slots=True)
class _Pending:
    """What extended headers said about the member that comes next."""

    records: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: bytes | None = None
    link: bytes | None = None


class TarReader:
    """Turns the bytes of a tar archive into members. Not usable after it raised TarError."""

    def __init__(self, max_members: int = MAX_MEMBERS) -> None:
        self._received = 0
        self._next = 0  # offset of the first byte that is neither accepted nor skipped
        self._want = BLOCK
        self._partial = b""
        self._accept: Callable[[bytes], Member | None] = self._header
        self._numbers: dict[bytes, int] = {}
        self._pending: _Pending | None = None
        self._zero_blocks = 0
        self._members = 0
        self._max_members = max_members
        self._name = b""

    def receive_data(self, data: bytes) -> list[Member]:
        """Take the next bytes of the archive; return the members whose headers end in them."""
        members: list[Member] = []
        base = self._received
        length = len(data)
        self._received = base + length
        position = 0 if self._partial else self._next - base
        while position < length and self._zero_blocks < 2:
            stop = position + self._want - len(self._partial)
            block = data[position:stop]
            if self._partial:
                block = self._partial + block
            if stop > length:
                self._partial = block
                break
            self._partial = b""
            self._next = base + stop
            try:
                member = self._accept(block)
            except ValueError as error:
                raise self._error(str(error), base + stop - len(block)) from error
            if member is not None:
                members.append(member)
            position = self._next - base
        return members

    def end(self) -> None:
        """The archive is complete: raise TarError when it ends inside a member or after an extension."""
        # Many writers leave the two zero blocks of the end away, and every reader takes that.
        if self._zero_blocks:
            return
        if self._received < self._next or self._partial:
            raise self._error("the archive ends inside it", self._received)
        if self._pending is not None or self._accept != self._header:
            raise self._error("the archive ends after an extended header", self._received)

    def _error(self, reason: str, offset: int) -> TarError:
        return TarError(f"tar member {printable(self._name)} at offset {offset}: {reason}")

    def _number(self, text: bytes) -> int:
        value = self._numbers.get(text)
        if value is None:
            value = parse_number(text)
            if len(self._numbers) < _CACHED_NUMBERS:
                self._numbers[text] = value
        return value

    def _header(self, block: bytes) -> Member | None:
        if block == _ZERO:
            self._zero_blocks += 1
            return None
        fields = HEADER.unpack(block)
        name, mode, uid, gid, size, mtime, checksum, flag, link, magic, major, minor, prefix = fields
        name = name.partition(b"\0")[0]
        self._name = name
        if self._zero_blocks:
            raise ValueError("a header follows the first zero block of the end")
        check_sum(block, checksum)
        if prefix[0] and magic[:6] == b"ustar\0":
            name = self._name = prefixed(block, prefix, name)
        length = check_size(parse_number(size))
        kind = KINDS.get(flag)
        if kind is None:
            self._expect_extension(flag, length)
            return None
        if flag == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        if kind is not Kind.FILE:
            length = 0
        number = self._number
        at = self._next
        owner = number(uid), number(gid)
        member = Member(name, kind, number(mode) & 0o7777, *owner, number(mtime), 0, length, at, length)
        if kind is Kind.HARD_LINK or kind is Kind.SYMLINK:
            member = member._replace(link=link.partition(b"\0")[0])
        elif kind is Kind.CHARACTER or kind is Kind.BLOCK:
            member = member._replace(device=(parse_number(major), parse_number(minor)))
        if self._pending is not None:
            return self._extended(member, self._pending, block, flag)
        if flag == b"S":
            return self._old_sparse(member, block)
        return self._emit(member)

    def _emit(self, member: Member) -> Member:
        """Last checks, then skip the data and wait for the next header."""
        self._members += 1
        if self._members > self._max_members:
            raise ValueError(f"the archive has more than {self._max_members} members")
        check_member(member)
        self._pending = None
        self._next = member.offset + (member.stored + 511 & ~511)
        self._want = BLOCK
        self._accept = self._header
        return member

    def _expect_extension(self, flag: bytes, length: int) -> None:
        if flag not in _EXTENSIONS + _PASSED_OVER:
            # Something unknown must not be lost silently.
            raise ValueError(f"type {flag!r} is not supported")
        if length > MAX_EXTENDED:
            raise ValueError(f"extended header of {length} bytes, at most {MAX_EXTENDED} are taken")
        if flag in _PASSED_OVER or not length:
            self._next += length + 511 & ~511
            return

        def accept(payload: bytes) -> None:
            self._want = BLOCK
            self._accept = self._header
            self._extend(flag, payload[:length])

        self._want = length + 511 & ~511
        self._accept = accept

    def _extend(self, flag: bytes, payload: bytes) -> None:
        pending = self._pending = self._pending or _Pending()
        if flag == b"L":
            pending.name = payload.partition(b"\0")[0]
        elif flag == b"K":
            pending.link = payload.partition(b"\0")[0]
        else:
            # Two extended headers before one member are not made by any writer; without a bound they would be
            # a way to fill the memory.
            pending.records = parse_pax(payload)

    def _extended(self, member: Member, pending: _Pending, block: bytes, flag: bytes) -> Member | None:
        """The member as its extended headers have it."""
        if pending.name is not None:
            member = member._replace(name=pending.name)
        if pending.link is not None:
            member = member._replace(link=pending.link)
        records = dict(pending.records)
        member = amended(member, records)
        sparse_name = records.get(b"GNU.sparse.name")
        if sparse_name:
            member = member._replace(name=sparse_name)
        self._name = member.name
        if b"\0" in member.name or b"\0" in member.link:
            raise ValueError("name or link target contains NUL")
        if flag == b"S":
            return self._old_sparse(member, block)
        if member.kind is Kind.FILE:
            return self._pax_sparse(member, pending.records, records)
        return self._emit(member)

    def _expanded(self, member: Member, sparse: SparseMap) -> Member:
        return self._emit(member._replace(size=sparse.size, sparse=sparse.extents))

    def _old_sparse(self, member: Member, block: bytes) -> Member | None:
        """The old GNU format: four extents in the header, 21 in each extension block behind it."""
        size = check_size(parse_number(block[483:495]))
        numbers = old_gnu_pairs(block, 386, 4)
        if not block[482]:
            return self._expanded(member, sparse_map(size, numbers))

        def accept(extension: bytes) -> Member | None:
            numbers.extend(old_gnu_pairs(extension, 0, 21))
            if extension[504]:
                # sparse_map has the exact bound; this one only ends the gathering.
                if self._next - member.offset > MAX_EXTENDED * 4:
                    raise ValueError("the sparse map is too long")
                return None
            return self._expanded(member._replace(offset=self._next), sparse_map(size, numbers))

        self._accept = accept
        return None

    def _pax_sparse(
        self, member: Member, ordered: list[tuple[bytes, bytes]], records: dict[bytes, bytes]
    ) -> Member | None:
        """The member, sparse or not; None when its map is yet to come (format 1.0)."""
        stored_map = records.get(b"GNU.sparse.major") == b"1"
        numbers = None if stored_map else pax_sparse_numbers(ordered)
        if not stored_map and numbers is None:
            return self._emit(member)
        text = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if not text:
            raise ValueError("sparse member without GNU.sparse.realsize or GNU.sparse.size")
        size = check_size(parse_decimal(text))
        if numbers is not None:
            return self._expanded(member, sparse_map(size, numbers))
        self._accept = self._stored_map(member, size)
        return None

    def _stored_map(self, member: Member, size: int) -> Callable[[bytes], Member | None]:
        """PAX format 1.0: the map fills whole blocks before the data and counts in the stored size."""
        gathered: list[bytes] = []
        missing = 0

        def accept(block: bytes) -> Member | None:
            nonlocal missing
            gathered.append(block)
            taken = len(gathered) * BLOCK
            if taken > member.stored or taken > MAX_EXTENDED:
                raise ValueError("the sparse map does not end within the stored data")
            if len(gathered) == 1:
                missing = stored_sparse_lines(block)
            missing -= block.count(b"\n")
            if missing > 0:
                return None
            numbers = stored_sparse_numbers(b"".join(gathered))
            whole = member._replace(offset=self._next, stored=member.stored - taken)
            return self._expanded(whole, sparse_map(size, numbers))

        return accept
