"""Label selectors as of kubectl, for equality: KEY=VALUE, KEY!=VALUE, KEY, !KEY, with commas between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.session import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def selector(text: str, option: str) -> Callable[[Mapping[str, str]], bool]:
    """A test of a thing's labels: all parts of the selector must hold. CommandError names the option."""
    tests = [_part(part.strip(), option) for part in text.split(",")]
    return lambda labels: all(test(labels) for test in tests)


def _part(text: str, option: str) -> Callable[[Mapping[str, str]], bool]:
    for operator in ("!=", "==", "="):
        key, found, value = text.partition(operator)
        if found and key:
            key, value = key.strip(), value.strip()
            if operator == "!=":
                return lambda labels: labels.get(key) != value
            return lambda labels: labels.get(key) == value
    if text.startswith("!") and text[1:].strip():
        return lambda labels: text[1:].strip() not in labels
    if not text or set(text) & set("= !"):
        raise CommandError(f"{option} {text!r} is not KEY=VALUE, KEY!=VALUE, KEY or !KEY", 2)
    return lambda labels: text in labels
