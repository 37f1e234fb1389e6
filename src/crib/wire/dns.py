"""DNS messages, as far as the name server of one small zone needs them (RFC 1035; EDNS: RFC 6891).

Queries are read with bounds on every length, count and pointer; answers are written without compressed names
but for the one that was asked for. By hand because dnspython costs 3.6 MB of memory and 23 ms of import.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Labels = tuple[bytes, ...]

A = 1
SOA = 6
PTR = 12
AAAA = 28
ANY = 255
_OPT = 41
_IN = 1

NO_ERROR = 0
FORMAT_ERROR = 1
SERVER_FAILURE = 2
NO_SUCH_NAME = 3
NOT_IMPLEMENTED = 4
REFUSED = 5
BAD_VERSION = 16

PLAIN_BYTES = 512
"""What a datagram may hold for a client without EDNS."""
DATAGRAM_BYTES = 1232
"""The most that is put into one for any client: this passes every IPv6 link unfragmented."""
MESSAGE_BYTES = 65535
NAME_BYTES = 255
LABEL_BYTES = 63
POINTERS = 16
RECORDS = 32
"""Records that are looked through for EDNS; a query has one or two."""

_RESPONSE = 0x8000
_OPCODE = 0x7800
_AUTHORITATIVE = 0x0400
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080
_CODE = 0x000F
_POINTER = 0xC0
_ASKED_NAME = b"\xc0\x0c"

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_SOA_NUMBERS = struct.Struct("!IIIII")


class MalformedMessage(ValueError):
    """The bytes are no DNS message, or one beyond the bounds."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `labels` are as they were written; `payload` is EDNS's datagram size, or None."""

    id: int
    flags: int
    labels: Labels
    kind: int
    family: int
    payload: int | None = None
    version: int = 0

    @property
    def name(self) -> Labels:
        """The labels in small letters: names are compared so."""
        return lowered(self.labels)

    @property
    def is_standard(self) -> bool:
        """Whether it is a question and no update, notification or status request."""
        return not self.flags & _OPCODE

    @property
    def datagram_bytes(self) -> int:
        """How long an answer in one datagram may be."""
        return min(max(self.payload or 0, PLAIN_BYTES), DATAGRAM_BYTES)

    def asks_for(self, kind: int) -> bool:
        """Whether a record of this type answers it."""
        return self.kind in (kind, ANY) and self.family in (_IN, ANY)


@dataclass(frozen=True, slots=True)
class Record:
    """A resource record of the class IN; without an `owner` it is of the name that was asked for."""

    kind: int
    ttl: int
    data: bytes
    owner: Labels | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gets: a code and its records."""

    code: int
    answers: Sequence[Record] = ()
    authority: Sequence[Record] = ()


def read_query(data: bytes) -> Query:
    """The one question of a query. Raises MalformedMessage."""
    if len(data) < _HEADER.size:
        raise MalformedMessage(f"dns message of {len(data)} bytes")
    ident, flags, questions, *counts = _HEADER.unpack_from(data)
    if flags & _RESPONSE or questions != 1:
        raise MalformedMessage(f"dns message with flags {flags:#x} and {questions} questions is not a query")
    labels, kind, family, offset = _read_question(data)
    payload, version = _read_edns(data, offset, sum(counts))
    return Query(ident, flags, labels, kind, family, payload, version)


def read_name(data: bytes, offset: int) -> tuple[Labels, int]:
    """The name at `offset`, and where what follows it begins. Raises MalformedMessage.

    A pointer may only lead to before the place where the reading began or was last led to: none is a circle.
    """
    labels: list[bytes] = []
    length, pointers, start, after = 1, 0, offset, 0
    while True:
        size = _byte(data, offset)
        if size == 0:
            return tuple(labels), after or offset + 1
        if size & _POINTER == _POINTER:
            target = (size & ~_POINTER) << 8 | _byte(data, offset + 1)
            pointers += 1
            if target >= start or pointers > POINTERS:
                raise MalformedMessage(f"dns name at {offset} leads to {target} by pointer {pointers}")
            after = after or offset + 2
            offset = start = target
            continue
        length += size + 1
        label = data[offset + 1 : offset + 1 + size]
        if size > LABEL_BYTES or length > NAME_BYTES or len(label) < size:
            raise MalformedMessage(f"dns label of {size} bytes at {offset}")
        labels.append(label)
        offset += size + 1


def write_answer(query: Query, answer: Answer, limit: int) -> bytes:
    """The answer as a message; what does not fit into `limit` bytes is left out and the message says so."""
    flags = _RESPONSE | _RECURSION_AVAILABLE | query.flags & (_OPCODE | _RECURSION_DESIRED)
    flags |= answer.code & _CODE
    if answer.code in (NO_ERROR, NO_SUCH_NAME):
        flags |= _AUTHORITATIVE
    option = b""
    if query.payload is not None:
        option = b"\0" + _RECORD.pack(_OPT, DATAGRAM_BYTES, answer.code >> 4 << 24, 0)
    question = write_name(query.labels) + _QUESTION.pack(query.kind, query.family)
    room = limit - _HEADER.size - len(question) - len(option)
    counts = [0, 0]
    body = b""
    for section, records in enumerate((answer.answers, answer.authority)):
        for record in records:
            packed = _write_record(record)
            if len(body) + len(packed) > room or flags & _TRUNCATED:
                flags |= _TRUNCATED
                break
            body += packed
            counts[section] += 1
    return _HEADER.pack(query.id, flags, 1, *counts, len(option) and 1) + question + body + option


def refuse(data: bytes, code: int) -> bytes:
    """The answer to what could not be read; empty if it must have none (too short, or an answer itself)."""
    if len(data) < _HEADER.size:
        return b""
    ident, flags, *_ = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        return b""
    return _HEADER.pack(ident, _RESPONSE | flags & (_OPCODE | _RECURSION_DESIRED) | code, 0, 0, 0, 0)


def with_id(data: bytes, ident: int) -> bytes:
    """The message under another id."""
    return ident.to_bytes(2, "big") + data[2:]


def is_answer_to(data: bytes, query: Query, ident: int) -> bool:
    """Whether a message answers the query that was sent under the id `ident`: a forged one seldom does."""
    if len(data) < _HEADER.size:
        return False
    found, flags, questions, *_ = _HEADER.unpack_from(data)
    if found != ident or not flags & _RESPONSE or questions > 1:
        return False
    if questions == 0:  # servers that could not read the query say so without it
        return bool(flags & _CODE)
    try:
        labels, kind, family, _ = _read_question(data)
    except MalformedMessage:
        return False
    return (lowered(labels), kind, family) == (query.name, query.kind, query.family)


def code_of(data: bytes) -> int:
    """The response code in a message's header."""
    return data[3] & _CODE


def labels_of(name: str) -> Labels:
    """The labels of a name of letters, digits, `-` and `_`, in small letters. ValueError if it is none."""
    labels = tuple(part.encode("ascii", "replace").lower() for part in name.rstrip(".").split("."))
    for label in labels:
        if not label or label.translate(None, b"abcdefghijklmnopqrstuvwxyz0123456789-_"):
            raise ValueError(f"{name!r} is not a domain name")
    write_name(labels)
    return labels


def write_name(labels: Labels) -> bytes:
    """A name without compression. ValueError if it is too long."""
    if any(not 0 < len(label) <= LABEL_BYTES for label in labels):
        raise ValueError(f"a label of {labels!r} is not 1 to {LABEL_BYTES} bytes long")
    written = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(written) > NAME_BYTES:
        raise ValueError(f"name of {len(written)} bytes is longer than {NAME_BYTES}")
    return written


def lowered(labels: Labels) -> Labels:
    """The labels in small letters, where they are letters of ASCII (RFC 4343)."""
    return tuple(label.lower() for label in labels)


def address_record(address: IPv4Address | IPv6Address, ttl: int) -> Record:
    """A or AAAA; `ttl` in seconds."""
    return Record(A if address.version == 4 else AAAA, ttl, address.packed)


def pointer_record(name: Labels, ttl: int) -> Record:
    """PTR."""
    return Record(PTR, ttl, write_name(name))


def zone_record(domain: Labels, ttl: int) -> Record:
    """The SOA of a zone without transfers. A missing name may be cached for `ttl` seconds."""
    source = write_name((b"ns", *domain)) + write_name((b"hostmaster", *domain))
    return Record(SOA, ttl, source + _SOA_NUMBERS.pack(1, 7200, 1800, 86400, ttl), owner=domain)


def reverse_address(name: Labels) -> IPv4Address | IPv6Address | None:
    """The address of a name below in-addr.arpa or ip6.arpa (RFC 1035, 3.5; RFC 3596); None if it is none."""
    try:
        parts = [label.decode("ascii") for label in reversed(name)]
        if parts[:2] == ["arpa", "in-addr"] and len(parts) == 6:
            return IPv4Address(".".join(parts[2:]))
        if parts[:2] == ["arpa", "ip6"] and len(parts) == 34 and all(len(part) == 1 for part in parts[2:]):
            return IPv6Address(bytes.fromhex("".join(parts[2:])))
    except ValueError:
        pass  # a name that only looks like an address
    return None


def _read_question(data: bytes) -> tuple[Labels, int, int, int]:
    labels, offset = read_name(data, _HEADER.size)
    if offset + _QUESTION.size > len(data):
        raise MalformedMessage(f"dns question ends at {len(data)}")
    kind, family = _QUESTION.unpack_from(data, offset)
    return labels, kind, family, offset + _QUESTION.size


def _read_edns(data: bytes, offset: int, records: int) -> tuple[int | None, int]:
    """The datagram size and version of the OPT record among the rest of a query's records."""
    if records > RECORDS:
        raise MalformedMessage(f"dns query with {records} records")
    payload: int | None = None
    version = 0
    for _ in range(records):
        _, offset = read_name(data, offset)
        if offset + _RECORD.size > len(data):
            raise MalformedMessage(f"dns record ends at {len(data)}")
        kind, family, ttl, length = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size + length
        if offset > len(data):
            raise MalformedMessage(f"dns record of {length} bytes ends at {len(data)}")
        if kind == _OPT:
            if payload is not None:
                raise MalformedMessage("dns query with more than one OPT record")
            payload, version = family, ttl >> 16 & 0xFF
    return payload, version


def _write_record(record: Record) -> bytes:
    owner = _ASKED_NAME if record.owner is None else write_name(record.owner)
    return owner + _RECORD.pack(record.kind, _IN, record.ttl, len(record.data)) + record.data


def _byte(data: bytes, offset: int) -> int:
    if offset >= len(data):
        raise MalformedMessage(f"dns name ends at {len(data)}")
    return data[offset]
