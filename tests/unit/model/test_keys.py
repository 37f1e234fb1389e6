"""Bounds of settings stand beside their fields, and parts of a table leave its keys where they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import pytest

from crib.config import ConfigError, parse
from crib.config.values import RULES
from crib.model.image_settings import ImageSettings
from crib.model.keys import PART, AtLeast, Form, Is, as_table, fields_of, is_part, keys_of, unwrapped
from crib.model.settings import Settings


@dataclass(frozen=True)
class Inner:
    depth: Annotated[int, AtLeast(1)] = 1


@dataclass(frozen=True)
class Outer:
    name: str = ""
    inner: Annotated[Inner, PART] = Inner()


def forms(hint: Any) -> Iterator[Form]:
    """Those of a field, and of all that its type holds."""
    kind, bounds = unwrapped(hint)
    yield from (bound.form for bound in bounds if isinstance(bound, Is))
    is_table = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    inner = fields_of(kind).values() if is_table else get_args(kind)
    for element in inner:
        yield from forms(element)


def test_every_form_has_a_rule_and_some_field_that_uses_it() -> None:
    assert RULES.keys() == set(Form) == set(forms(Settings))


def test_the_keys_of_a_part_stand_in_the_table_around_it() -> None:
    assert list(keys_of(Outer)) == ["name", "depth"]
    assert as_table(Outer("a")) == {"name": "a", "depth": 1}


def test_no_two_parts_of_the_images_table_have_a_key_in_common() -> None:
    parts = [unwrapped(hint)[0] for hint in fields_of(ImageSettings).values() if is_part(hint)]
    assert len(keys_of(ImageSettings)) == sum(len(fields_of(part)) for part in parts)


def test_settings_are_shown_by_the_keys_that_set_them() -> None:
    shown = as_table(parse("[images]\ngc_high = 90\n[[images.policy]]\nmatch = 'quay.io/*'"))
    assert shown["images"]["gc_high"] == 90
    assert shown["images"]["policy"][0]["match"] == "quay.io/*"
    assert shown["images"].keys() == keys_of(ImageSettings).keys()
    assert shown["handlers"]["crun"]["containers"]["shm_size"] == 64 << 20


@pytest.mark.parametrize(
    "text",
    [
        "[images]\ntransfer = {}",
        "[images.store]\nblock_size = 512",
        "[images.trust]\nverifiers = []",
    ],
)
def test_a_part_is_no_key(text: str) -> None:
    with pytest.raises(ConfigError, match="unknown key images"):
        parse(text)
