"""Both faces of the client have the same methods, which do the same."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crib.client import Client, SyncClient
from crib.client.blocking import BlockingFace

ROOT = Path(__file__).parents[3]


def methods(face: type) -> dict[str, Callable[..., Any]]:
    return {name: found for name, found in vars(face).items() if inspect.isfunction(found) and name[0] != "_"}


def test_the_two_faces_have_the_same_names() -> None:
    assert methods(SyncClient).keys() == methods(Client).keys()


@pytest.mark.parametrize("name", methods(Client))
def test_a_method_has_the_same_arguments_and_words_in_both_faces(name: str) -> None:
    one, other = methods(Client)[name], methods(SyncClient)[name]
    assert inspect.signature(other) == inspect.signature(one)
    assert inspect.getdoc(other) == inspect.getdoc(one)
    assert other.__name__ == one.__name__ or one is methods(Client)[one.__name__]
    assert not inspect.iscoroutinefunction(other)


def test_both_faces_are_made_with_the_same_arguments() -> None:
    assert inspect.signature(SyncClient) == inspect.signature(Client)
    assert issubclass(SyncClient, BlockingFace)


PROGRAM = """
from crib.client import Client, ContainerSpec, PodSpec, SyncClient

def sync(crib: SyncClient) -> None:
    reveal_type(crib.pod)
    reveal_type(crib.exec)
    reveal_type(crib.logs)
    crib.wait("web", timeout="soon")
    for line in crib.logs("web", tail=3):
        print(line.text, line.colour)
"""


def test_a_type_checker_sees_arguments_and_results_of_the_blocking_face(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    said = subprocess.run([*mypy, program], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert 'Revealed type is "def (target: str | crib.client.views.PodInfo' in said, said
    assert ") -> crib.client.views.PodInfo" in said
    assert "timeout: float | None" in said
    assert ") -> crib.client.views.CommandResult" in said
    assert "-> crib.client.blocking.BlockingIterator[crib.wire.crilog.LogLine]" in said
    assert 'Argument "timeout" has incompatible type "str"' in said
    assert 'has no attribute "colour"' in said
    assert "Found 2 errors" in said
