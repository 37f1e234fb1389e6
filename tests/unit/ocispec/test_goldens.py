"""Whole specs and their origins, one for each larger feature, as tests/golden/ocispec has them."""

from __future__ import annotations

import json

import pytest

from crib.ocispec.origins import origins, whole_document
from tests.unit.ocispec.golden_inputs import CASES, GOLDEN, text


@pytest.mark.parametrize("name", CASES)
def test_spec_is_as_written_down(name: str) -> None:
    written = (GOLDEN / f"{name}.json").read_text()
    assert text(json.loads(whole_document(CASES[name]()))) == written


@pytest.mark.parametrize("name", CASES)
def test_origins_are_as_written_down(name: str) -> None:
    assert text(origins(CASES[name]())) == (GOLDEN / f"{name}.origins.json").read_text()


def test_every_golden_file_has_its_case() -> None:
    names = {path.name.removesuffix(".json").removesuffix(".origins") for path in GOLDEN.glob("*.json")}
    assert names == set(CASES)
