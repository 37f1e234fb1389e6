"""How a case says what it asked, what it expected and what it got instead."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import TypeVar

from crib.client.errors import ClientError

_Answer = TypeVar("_Answer")
SHOWN = 300
"""Characters of a value that a report shows."""


class Mismatch(Exception):
    """The runtime answered something else than it should."""

    def __init__(self, asked: str, expected: object, got: object) -> None:
        self.asked, self.expected, self.got = asked, shown(expected), shown(got)
        super().__init__(f"{asked}: expected {self.expected}, got {self.got}")


class NotApplicable(Exception):
    """The case cannot be asked here; the message is the reason."""


def equal(asked: str, got: object, expected: object) -> None:
    """Mismatch unless both are the same."""
    if got != expected:
        raise Mismatch(asked, expected, got)


def true(asked: str, holds: object, expected: str, got: object) -> None:
    """Mismatch unless it holds; `expected` says in words what should."""
    if not holds:
        raise Mismatch(asked, expected, got)


def contains(asked: str, got: Collection[object] | str, part: object) -> None:
    """Mismatch unless `part` is in it."""
    if part not in got:
        raise Mismatch(asked, f"something with {part!r}", got)


async def refused(asked: str, call: Awaitable[_Answer], *codes: str) -> ClientError:
    """The error that the call must end with; one of these gRPC codes, if any is named."""
    try:
        await call
    except ClientError as error:
        if codes and error.code not in codes:
            raise Mismatch(asked, " or ".join(codes), f"{error.code}: {error.message}") from error
        return error
    raise Mismatch(asked, " or ".join(codes) or "an error", "success")


def shown(value: object) -> str:
    """A value as a report has it: one line, cut in the middle."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    if len(text) <= SHOWN:
        return text or "nothing"
    return f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
