"""What somebody reads who gave an option a value that it does not take: of every option of every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crib.cli import app
from crib.cli.command_help import choices_of
from tests.unit.cli.every_command import EVERY, ROOT

FOREIGN = ("Value error", "Input should", "valid integer", "unable to parse", "pydantic", "type=")
"""Words of the library that checks values."""


def strict(path: str, command: Any) -> Iterator[tuple[str, str, str]]:
    """Options that do not take any text, each with a value that it refuses, and what must be said."""
    for param in command.params:
        if param.param_type_name != "option" or param.is_flag or param.count:
            continue
        kind = param.type_descriptor.annotation
        if choices_of(param):
            yield path, param.opts[0], "is not one of"
        elif kind in (int, float):
            yield path, param.opts[0], "is not a whole number" if kind is int else "is not a number"


CASES = [case for path, command in {"crib": ROOT, **EVERY}.items() for case in strict(path, command)]


@pytest.mark.parametrize(("path", "option", "said"), CASES, ids=[" ".join(case[:2]) for case in CASES])
def test_a_value_that_is_refused_is_named_in_words_of_ours(
    path: str, option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending([*path.split()[1:], option, "wat", *(["pods"] if path == "crib" else [])]) == 2
    text = capsys.readouterr().err
    assert f"'wat' {said}" in text
    assert not [word for word in FOREIGN if word in text]


def test_the_options_of_this_test_are_many() -> None:
    assert len(CASES) > 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["top", "--interval", "0.25"], "'0.25' is less than 0.5"),
        (["top", "--interval", "61"], "'61' is more than 60"),
        (["logs", "--tail", "-2", "x"], "'-2' is less than -1"),
    ],
)
def test_a_bound_is_named_with_the_value(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending(words) == 2
    assert said in capsys.readouterr().err
