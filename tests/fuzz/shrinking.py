"""Makes a failing request smaller, one thing at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.fuzz.taming import is_map, is_repeated


def smaller(message: Message) -> Iterator[Message]:
    """The message with one thing less: a field, an element, half of a list or of a text."""
    for path in _paths(message, ()):
        less = type(message)()
        less.CopyFrom(message)
        _cut(less, path)
        if less != message:
            yield less


def _paths(message: Message, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for each, value in message.ListFields():
        here = (*above, each.name)
        yield (*here, "clear")
        if is_map(each):
            yield from ((*here, "del", key) for key in list(value)[:8])
            continue
        if is_repeated(each) and len(value) > 1:
            yield (*here, "half")
        if each.type == FieldDescriptor.TYPE_STRING and not is_repeated(each) and len(value) > 8:
            yield (*here, "shorten")
        if each.type == FieldDescriptor.TYPE_MESSAGE:
            parts = [(here, value)]
            if is_repeated(each):
                parts = [((*here, number), part) for number, part in enumerate(value[:4])]
            for place, part in parts:
                yield from _paths(part, place)


def _cut(message: Any, path: tuple[Any, ...]) -> None:
    holder = message
    *above, verb = path if "del" not in path else path[:-1]
    name = above.pop()
    for step in above:
        holder = holder[step] if isinstance(step, int) else getattr(holder, step)
    if verb == "clear":
        holder.ClearField(name)
    elif verb == "half":
        values = getattr(holder, name)
        del values[len(values) // 2 :]
    elif verb == "shorten":
        setattr(holder, name, getattr(holder, name)[: len(getattr(holder, name)) // 2])
    else:
        del getattr(holder, name)[path[-1]]
