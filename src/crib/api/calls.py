"""What a call is made of: how its request is decoded, and what is then done with the value.

The message ends in `decode`. The rest sees model values only, and answers with a message or, where the answer
is joined from cached parts, with its encoded bytes.
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
    """Has to wait for something."""

    request: type[Message]
    decode: Callable[[Any], Any]
    run: Callable[[Any], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Answers with any number of messages; None among them tells the client that the stream is open."""

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
