"""What an archive of a volume says of the volume: a comment at its beginning, which tar(1) passes over.

The comment is JSON with a word before it. Whoever reads an archive believes none of it: sizes, counts and
texts are bounded here, and what the words mean is judged by those who use them.
"""

from __future__ import annotations

import msgspec

from crib.wire.tar_member import BLOCK, HEADER, check_sum
from crib.wire.tar_records import parse_number, parse_pax
from crib.wire.tar_writer import comment_header

PREFIX = b"crib-volume:"
MAX_DESCRIPTION = 64 << 10
"""Bytes of it; what is longer is written without labels and parameters."""
BEGINNING = 2 * BLOCK + MAX_DESCRIPTION + 100
"""Bytes of an archive in which the comment is."""
MAX_ENTRIES = 256
MAX_TEXT = 4096
"""Characters of a text."""


class MalformedDescription(ValueError):
    """The archive has a description that is none; says what of it is wrong."""


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume, as far as another node can make use of that. Sizes are bytes."""

    name: str = ""
    kind: str = ""
    storage_class: str = ""
    driver: str = ""
    capacity: int = 0
    access_modes: tuple[str, ...] = ()
    fs_type: str = ""
    labels: dict[str, str] = {}
    parameters: dict[str, str] = {}


def encode(description: Description) -> str:
    """As it stands in the comment."""
    text = msgspec.json.encode(description)
    if len(text) > MAX_DESCRIPTION:
        text = msgspec.json.encode(msgspec.structs.replace(description, labels={}, parameters={}))
    return text.decode()


def decode(text: str) -> Description:
    """MalformedDescription."""
    try:
        found = msgspec.json.decode(text, type=Description)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedDescription(f"its description of the volume is malformed: {error}") from None
    texts = [found.name, found.kind, found.storage_class, found.driver, found.fs_type, *found.access_modes]
    for name, entries in (("labels", found.labels), ("parameters", found.parameters)):
        if len(entries) > MAX_ENTRIES:
            raise MalformedDescription(f"its description has more than {MAX_ENTRIES} {name}")
        if "" in entries:
            raise MalformedDescription(f"its description has an empty key in {name}")
        texts += [*entries, *entries.values()]
    if any(len(one) > MAX_TEXT or "\0" in one for one in texts):
        raise MalformedDescription(f"its description has a text of more than {MAX_TEXT} characters, or a NUL")
    if not 0 <= found.capacity < 1 << 63:
        raise MalformedDescription(f"its description has a capacity of {found.capacity}")
    return found


def header(text: str) -> bytes:
    """What the archive begins with."""
    return comment_header(PREFIX + text.encode())


def found_in(beginning: bytes) -> str:
    """The description in the first BEGINNING bytes of an archive; empty where there is none.

    MalformedDescription where it is too long.
    """
    if len(beginning) < BLOCK or beginning[156:157] != b"g":
        return ""
    size, checksum = HEADER.unpack(beginning[:BLOCK])[4], HEADER.unpack(beginning[:BLOCK])[6]
    try:
        check_sum(beginning[:BLOCK], checksum)
        length = parse_number(size)
        records = parse_pax(beginning[BLOCK : BLOCK + min(length, len(beginning))])
    except ValueError:
        if not beginning[BLOCK:].partition(b"comment=")[2].startswith(PREFIX):
            return ""  # somebody else's header: who unpacks passes it over
        raise MalformedDescription(
            f"its description is damaged, or has over {MAX_DESCRIPTION} bytes"
        ) from None
    for key, value in records:
        if key == b"comment" and value.startswith(PREFIX):
            return _text(value.removeprefix(PREFIX))
    return ""


def _text(value: bytes) -> str:
    if len(value) > MAX_DESCRIPTION:
        raise MalformedDescription(f"its description has over {MAX_DESCRIPTION} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedDescription("its description is no UTF-8") from None
