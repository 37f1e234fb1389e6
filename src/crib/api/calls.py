"""What a call consists of: how its request is decoded, and what is then done with the value.

`decode` is the last to see the message. The rest sees only model values. It answers with a message, or with
encoded bytes if they are joined from cached parts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.message import Message

from crib.model.errors import NotBuilt

Answer: TypeAlias = Message | bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Answered from memory, without waiting."""

    request: type[Message]
    decode: Callable[[Any], Any]
    run: Callable[[Any], Answer]


@dataclass(frozen=True, slots=True)
class Verb:
    """May wait for something."""

    request: type[Message]
    decode: Callable[[Any], Any]
    run: Callable[[Any], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Answers with any number of messages. None among them shows the client that the stream is open."""

    request: type[Message]
    decode: Callable[[Any], Any]
    run: Callable[[Any], AsyncIterator[Answer | None]]


@dataclass(frozen=True, slots=True)
class Parts:
    """Answers with any number of messages from memory, without waiting for more than the client."""

    request: type[Message]
    decode: Callable[[Any], Any]
    run: Callable[[Any], Iterator[Answer]]


Call: TypeAlias = Read | Verb | Stream | Parts
Calls: TypeAlias = Mapping[str, Call]


def nothing(message: Message) -> None:
    """Decodes a request without fields."""


def unbuilt(name: str, why: str, request: type[Message]) -> Read:
    """A call that is refused by name, so that a client need not guess what this daemon is."""

    def refuse(_: None) -> Answer:
        raise NotBuilt(f"crib does not offer {name}: {why}")

    return Read(request, nothing, refuse)
