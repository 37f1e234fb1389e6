"""List replies joined from cached encoded messages, whole or in parts.

A repeated field of a protobuf message is encoded as its elements one after the other, so a reply that has
nothing else is the concatenation of its elements. Records are frozen: an element is encoded once for each
record, not for each list. In every list message of the CRI the elements are field number 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from crib.api.encoded_fields import encoded_field
from crib.tasks.lanes import stand_back

MANY = 500
"""Records whose list holds up other calls: several of such lists at once take turns with them."""
STRETCH = 100
"""Records that are encoded in one go, which takes about a millisecond."""
PART_BYTES = 1 << 20
"""A part of a streamed list is sent once it has this many bytes. All clients accept at least 4 MiB."""
_ELEMENT = b"\x0a"
"""Tag of field 1, length-delimited (protobuf encoding, Message Structure)."""


class Listed(Protocol):
    """What the cache needs of a record."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Listed)


class EncodedList(Generic[R]):
    """The encoded elements of one noun's lists."""

    def __init__(self, encode: Callable[[R], Message]) -> None:
        self._encode = encode
        self._kept: dict[str, tuple[R, bytes]] = {}

    def elements(self, records: Iterable[R]) -> list[bytes]:
        """Each record as an element of field 1. `records` may be a part of what there is."""
        return [self.element(record) for record in records]

    def element(self, record: R) -> bytes:
        """One of them."""
        entry = self._kept.get(record.id)
        if entry is None or entry[0] is not record:
            entry = self._keep(record)
        return entry[1]

    def _keep(self, record: R) -> tuple[R, bytes]:
        entry = self._kept[record.id] = (record, element(self._encode(record)))
        return entry

    async def prepared(self, records: Iterable[R]) -> list[R]:
        """The same records. If they are many, other calls are answered while they are encoded."""
        rows = list(records)
        if len(rows) > MANY:
            await stand_back()
            encoded = 0
            for row in rows:
                entry = self._kept.get(row.id)
                if entry is None or entry[0] is not row:
                    self._keep(row)
                    encoded += 1
                    if encoded % STRETCH == 0:
                        await asyncio.sleep(0)
        return rows

    def whole(self, records: Iterable[R]) -> bytes:
        """The reply that lists all records. Forgets those that no longer exist."""
        rows = list(records)
        encoded = self.elements(rows)
        self.keep_only(rows)
        return b"".join(encoded)

    def keep_only(self, records: Sequence[R]) -> None:
        """Forget what is not among these, which are all that there are."""
        if len(self._kept) > len(records):
            ids = {record.id for record in records}
            self._kept = {key: entry for key, entry in self._kept.items() if key in ids}

    def some(self, records: Iterable[R]) -> bytes:
        """The reply that lists these records only."""
        return b"".join(self.elements(records))

    def parts(self, records: Iterable[R]) -> Iterator[bytes]:
        """The same list in messages of about PART_BYTES."""
        return parts(self.elements(records))


def element(message: Message) -> bytes:
    """A message as an element of a repeated field 1."""
    return element_of(message.SerializeToString())


def element_of(body: bytes) -> bytes:
    """An encoded message as such an element."""
    return encoded_field(_ELEMENT, body)


def parts(elements: Iterable[bytes]) -> Iterator[bytes]:
    """Elements gathered into messages of about PART_BYTES; none for an empty list."""
    gathered: list[bytes] = []
    size = 0
    for part in elements:
        gathered.append(part)
        size += len(part)
        if size >= PART_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)
