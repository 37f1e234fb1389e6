"""The configuration that is installed: every key at its default, commented out."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest

from crib.config import parse
from crib.config.defaults import default_config, explanations
from crib.model import image_settings, nri_settings, settings, vm_settings
from crib.model.keys import fields_of, keys_of, unwrapped
from crib.model.settings import ContainerDefaults, Settings
from tests.unit.config.texts import uncommented

TABLES = [
    kind
    for module in (settings, image_settings, nri_settings, vm_settings)
    for kind in vars(module).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
]


def dotted(kind: Any, above: str = "") -> set[str]:
    """The dotted keys below a table, with the one handler that there is by default."""
    found = set()
    for name, hint in keys_of(kind).items():
        bare, _ = unwrapped(hint)
        if bare == unwrapped(keys_of(Settings)["handlers"])[0]:
            found |= dotted(get_args(bare)[1], "handlers.crun.")
        elif bare is ContainerDefaults and above.startswith("handlers."):
            found.add(above + name)  # it overrides the node's, whose keys are explained
        elif dataclasses.is_dataclass(bare):
            found |= dotted(bare, f"{above}{name}.")
        else:
            found.add(above + name)
    return found


def said(table: dict[str, Any], above: str = "") -> set[str]:
    found = set()
    for name, value in table.items():
        if isinstance(value, dict) and value:
            found |= said(value, f"{above}{name}.")
        else:
            found.add(above + name)
    return found


def set_keys(table: dict[str, Any]) -> Iterator[str]:
    """Keys with a value, in all tables."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from set_keys(value)
        else:
            yield name


def test_it_says_nothing_as_it_is() -> None:
    assert parse(default_config()) == Settings()
    assert list(set_keys(tomllib.loads(default_config()))) == []


def test_uncommented_it_says_the_defaults() -> None:
    assert parse(uncommented(default_config())) == Settings()


def test_it_has_every_key() -> None:
    assert said(tomllib.loads(uncommented(default_config()))) == dotted(Settings)


def test_keys_of_the_tables_in_arrays_are_told() -> None:
    text = default_config()
    arrays = [
        get_args(bare)[0]
        for kind in TABLES
        for bare, _ in map(unwrapped, fields_of(kind).values())
        if get_origin(bare) is tuple and dataclasses.is_dataclass(get_args(bare)[0])
    ]
    assert len(arrays) == 3
    for kind in arrays:
        for field in dataclasses.fields(kind):
            assert re.search(rf"^#     {field.name} = .+: \w", text, re.MULTILINE), (kind, field.name)


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: str(kind.__name__))
def test_every_key_is_explained(kind: type) -> None:
    hints = fields_of(kind)
    below = {name for name, hint in hints.items() if dataclasses.is_dataclass(unwrapped(hint)[0])}
    if kind is Settings:
        below.add("handlers")
    assert hints.keys() - below <= explanations(kind).keys()


def test_no_line_is_longer_than_a_screen_but_for_values() -> None:
    assert [line for line in default_config().splitlines() if len(line) > 110 and line.startswith("# ")] == []
