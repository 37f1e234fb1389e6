"""Every program of docs/client.md runs as it is shown, and is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crib.testing import FakeServer
from tests.client_docs import IMAGE, ROOT, Example, examples, is_a_test
from tests.contract.cri_contract import SCRIPTS

EXAMPLES = examples()


@pytest.mark.parametrize("example", [one for one in EXAMPLES if not is_a_test(one)], ids=str)
def test_an_example_prints_what_is_shown(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer() as server:
        server.world.programs.update(SCRIPTS)
        server.world.add_image(IMAGE)
        monkeypatch.setenv("CRIB_ENDPOINT", server.endpoint)
        monkeypatch.setenv("CRIB_PODS_DIR", str(tmp_path))
        exec(compile(example.text, str(example), "exec"), {"__name__": "example"})
        assert not server.world.pods
    said = capsys.readouterr().out
    assert example.said is None or said == example.said
    assert os.listdir(tmp_path) == []


def test_the_example_for_tests_passes(tmp_path: Path) -> None:
    (example,) = [one for one in EXAMPLES if is_a_test(one)]
    (tmp_path / "test_example.py").write_text(example.text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "crib.testing.plugin", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout


def test_the_examples_are_typed(tmp_path: Path) -> None:
    files = []
    for number, example in enumerate(EXAMPLES):
        files.append(tmp_path / f"example{number}.py")
        files[-1].write_text(example.text)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*mypy, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_class_of_error_is_on_the_page() -> None:
    from crib.client import errors

    page = (ROOT / "docs" / "client.md").read_text()
    classes = {name for name, found in vars(errors).items() if isinstance(found, type) and name[0] != "_"}
    ours = {name for name in classes if issubclass(getattr(errors, name), errors.ClientError)}
    assert {name for name in ours if f"`{name}`" not in page and f".{name}`" not in page} == set()


def test_the_directory_for_pods_is_that_of_the_command_line() -> None:
    from crib.cli import session
    from crib.client import workloads

    for name in ("DEFAULT_PODS_DIR", "PODS_DIR_VARIABLE"):
        assert getattr(session, name) == getattr(workloads, name)
