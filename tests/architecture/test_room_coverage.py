"""The judge of coverage by room is itself judged."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def judge_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("room_coverage", ROOT / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_room_below_the_limit_is_named() -> None:
    assert judge_module().judge({"model": 99.0, "host": 89.9}) == ["host is covered 89.9 %, it must be 90 %"]


def test_an_exception_that_became_good_must_be_taken_off() -> None:
    module = judge_module()
    vars(module)["EXCEPTIONS"] = {"host": 50.0}
    assert module.judge({"host": 95.0}) == ["host is covered 95.0 % now: take it off the list of exceptions"]
    assert module.judge({"host": 60.0}) == []
    assert module.judge({"host": 40.0}) == ["host is covered 40.0 %, it must be 50 %"]
