"""Messages of protobuf by tables: a dictionary in, bytes out, and back.

A table has a message's fields by number: `{1: ("id", STRING), 3: ("mounts", (MOUNT,))}`. A kind is one of the
constants, a table for a message within, or a kind in a tuple for a repeated field. `MAP` is one of strings.
A field that is not there has its kind's empty value; None for a message within. What a table does not know is
passed over, as protobuf wants it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STRING = "s"
BYTES = "b"
UINT = "u"
INT = "i"
"""Of 64 bits, negative ones as well."""
BOOL = "?"
FIXED32 = "f"
DOUBLE = "d"
MAP = "m"

MAX_DEPTH = 16
_EMPTY = {STRING: "", BYTES: b"", UINT: 0, INT: 0, BOOL: False, FIXED32: 0, DOUBLE: 0.0}
_WIRE_TYPES = {STRING: 2, BYTES: 2, MAP: 2, UINT: 0, INT: 0, BOOL: 0, FIXED32: 5, DOUBLE: 1}
_ENTRY = {1: ("key", STRING), 2: ("value", STRING)}
_MASK = (1 << 64) - 1


class Malformed(ValueError):
    """These bytes are no such message."""


def encode(table: dict[int, Any], message: dict[str, Any]) -> bytes:
    """A message's bytes. A name that the table does not have is an error of ours: KeyError."""
    out: list[bytes] = []
    left = len(message)
    for number, (name, kind) in table.items():
        if name not in message:
            continue
        left -= 1
        value = message[name]
        if isinstance(kind, tuple):
            for one in value:
                _put(out, number, kind[0], one)
        elif kind == MAP:
            for key, one in value.items():
                _put(out, number, _ENTRY, {"key": key, "value": one})
        elif isinstance(kind, dict):
            if value is not None:
                _put(out, number, kind, value)
        elif value:
            _put(out, number, kind, value)
    if left:
        names = {name for name, _ in table.values()}
        raise KeyError(f"no such fields: {', '.join(sorted(set(message) - names))}")
    return b"".join(out)


def decode(table: dict[int, Any], data: bytes, depth: int = 0) -> dict[str, Any]:
    """A message with all of its fields. Malformed if the bytes are none."""
    if depth > MAX_DEPTH:
        raise Malformed(f"messages more than {MAX_DEPTH} deep")
    message: dict[str, Any] = {name: _empty(kind) for name, kind in table.values()}
    at, end = 0, len(data)
    while at < end:
        tag, at = varint_at(data, at)
        number, wire_type = tag >> 3, tag & 7
        value, at = _value_at(data, at, wire_type)
        if (field := table.get(number)) is None:
            continue
        name, kind = field
        if isinstance(kind, tuple):
            message[name].append(_taken(kind[0], wire_type, value, depth))
        elif kind == MAP:
            entry = _taken(_ENTRY, wire_type, value, depth)
            message[name][entry["key"]] = entry["value"]
        else:
            message[name] = _taken(kind, wire_type, value, depth)
    return message


def varint(value: int) -> bytes:
    """An unsigned number as protobuf has it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends. Malformed if there is none."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, at
        shift += 7
    raise Malformed("a number that does not end")


def _put(out: list[bytes], number: int, kind: Any, value: Any) -> None:
    if isinstance(kind, dict):
        body = encode(kind, value)
    elif kind == STRING:
        body = value.encode()
    elif kind == BYTES:
        body = value
    else:
        wire_type = _WIRE_TYPES[kind]
        out.append(varint(number << 3 | wire_type))
        if kind == FIXED32:
            out.append(value.to_bytes(4, "little"))
        elif kind == DOUBLE:
            out.append(_double(value))
        else:
            out.append(varint(value & _MASK))
        return
    out.append(varint(number << 3 | 2))
    out.append(varint(len(body)))
    out.append(body)


def _double(value: float) -> bytes:
    import _struct  # what struct is made of, and all that this needs

    packed: bytes = _struct.pack("<d", value)
    return packed


def _empty(kind: Any) -> Any:
    if isinstance(kind, tuple):
        return []
    if isinstance(kind, dict):
        return None
    return {} if kind == MAP else _EMPTY[kind]


def _value_at(data: bytes, at: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == 0:
        return varint_at(data, at)
    if wire_type == 2:
        length, at = varint_at(data, at)
    elif wire_type == 5:
        length = 4
    elif wire_type == 1:
        length = 8
    else:
        raise Malformed(f"a field of wire type {wire_type}")
    if at + length > len(data):
        raise Malformed("a field that goes on after its message")
    return data[at : at + length], at + length


def _taken(kind: Any, wire_type: int, value: int | bytes, depth: int) -> Any:
    wanted = 2 if isinstance(kind, dict) else _WIRE_TYPES[kind]
    if wire_type != wanted:
        raise Malformed(f"wire type {wire_type} where {wanted} is due")
    if isinstance(value, int):
        if kind == BOOL:
            return bool(value)
        return value - (1 << 64) if kind == INT and value >> 63 else value
    if isinstance(kind, dict):
        return decode(kind, value, depth + 1)
    if kind == STRING:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Malformed("a string that is no UTF-8") from None
    if kind == FIXED32:
        return int.from_bytes(value, "little")
    if kind == DOUBLE:
        import _struct

        return _struct.unpack("<d", value)[0]
    return value
