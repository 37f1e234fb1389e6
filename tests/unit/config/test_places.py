"""Where keys stand in a file: every one is found, however it is written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from crib.config.defaults import default_config
from crib.config.places import Path, Spot, places
from tests.unit.config.texts import uncommented

DOCUMENT = """\
# a comment with [table] and key = 1
title = "a # b" # and more
one.two . "three.four" = 'x'
"quo\\"ted" = 1
long = \"\"\"
not = "a key"
[neither]
\"\"\"
raw = '''
nor = this''' # end
[a]
list = [ 1, # one
  [ "x", 'y' ],
  { k = 1, "k 2" = [true] },
]
when = 1979-05-27 07:32:00
[a.b."c d"]
k = 1
[[many]]
n = 1
[[many]]
n = 2
[many.inner]
m = 3
[[many.more]]
z = 1
[[many.more]]
z = 2
inline = {}
"""


def paths(value: Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in pairs:
        found |= paths(one, (*path, key))
    return found


@pytest.mark.parametrize(
    "text",
    [DOCUMENT, DOCUMENT.replace("\n", "\r\n"), uncommented(default_config()), "", "a=1", "[t]", "a=[]\n\n"],
)
def test_every_key_and_element_has_a_place_and_nothing_else_does(text: str) -> None:
    assert places(text).keys() == paths(tomllib.loads(text))


@pytest.mark.parametrize(
    ("path", "spot"),
    [
        (("title",), (2, 1)),
        (("one",), (3, 1)),
        (("one", "two", "three.four"), (3, 1)),
        (('quo"ted',), (4, 1)),
        (("raw",), (9, 1)),
        (("a",), (11, 1)),
        (("a", "list", 0), (12, 10)),
        (("a", "list", 1, 1), (13, 10)),
        (("a", "list", 2, "k 2"), (14, 12)),
        (("a", "b", "c d", "k"), (18, 1)),
        (("many",), (19, 1)),
        (("many", 1), (21, 1)),
        (("many", 1, "n"), (22, 1)),
        (("many", 1, "inner", "m"), (24, 1)),
        (("many", 1, "more", 1, "z"), (28, 1)),
    ],
)
def test_a_place_is_where_people_look_for_the_key(path: Path, spot: tuple[int, int]) -> None:
    assert places(DOCUMENT)[path] == Spot(*spot)
