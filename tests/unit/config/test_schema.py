"""The JSON schema says what cribd checks, as far as a schema can."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from crib.config.defaults import default_config
from crib.config.schema import schema
from crib.config.views import values
from crib.model.settings import Settings
from tests.unit.config.texts import uncommented

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def problems(value: Any, rule: dict[str, Any], path: str = "") -> list[str]:
    """What a validator would say: of the words that the schema uses."""
    assert rule.keys() <= {
        *("$schema", "title", "type", "properties", "additionalProperties", "items", "default"),
        *("description", "enum", "minimum", "maximum", "pattern"),
    }
    if isinstance(rule["type"], list):  # any of these
        tries = [problems({**rule, "type": one}, value, path) for one in rule["type"]]
        return [] if not all(tries) else [f"{path} is none of {', '.join(rule['type'])}"]
    kind = TYPES[rule["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return [f"{path} is no {rule['type']}"]
    found = []
    if isinstance(value, dict):
        known, others = rule.get("properties", {}), rule["additionalProperties"]
        for key, one in value.items():
            inner = known.get(key, others)
            found += problems(one, inner, f"{path}.{key}") if inner else [f"{path}.{key} is unknown"]
    if isinstance(value, list):
        found += [text for one in value for text in problems(one, rule["items"], path)]
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{path} is none of {rule['enum']}")
    if "minimum" in rule and value < rule["minimum"]:
        found.append(f"{path} is too small")
    if "maximum" in rule and value > rule["maximum"]:
        found.append(f"{path} is too large")
    return found


def test_the_default_configuration_fits_the_schema() -> None:
    assert problems(tomllib.loads(uncommented(default_config())), schema()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dta = 1", ".dta is unknown"),
        ("data = 1", ".data is no string"),
        ("nice = 5", ".nice is too large"),
        ("[log]\nlevel = 'loud'", ".log.level is none of"),
        ("[images]\nparallel_layers = 0", ".images.parallel_layers is too small"),
        ("[images.mirrors]\n'docker.io' = 'x'", ".images.mirrors.docker.io is no array"),
        ("[[images.policy]]\nkys = []", ".images.policy.kys is unknown"),
        ("[handlers.runc.containers]\numsk = ''", ".handlers.runc.containers.umsk is unknown"),
    ],
)
def test_what_cribd_refuses_does_not_fit(text: str, problem: str) -> None:
    (found,) = problems(tomllib.loads(text), schema())
    assert found.startswith(problem)


def test_every_key_has_an_explanation_and_tells_whether_it_takes_a_restart() -> None:
    found = schema()["properties"]
    assert found["data"]["description"].endswith("(restart)")
    assert not found["pids_limit"]["description"].endswith("(restart)")
    for path, _ in values(Settings()):
        if path[0] != "handlers":
            rule = {"properties": found}
            for part in path:
                rule = rule["properties"][part]
            assert rule["description"], path
