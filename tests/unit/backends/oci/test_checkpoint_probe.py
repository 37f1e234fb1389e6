"""What is found out about CRIU: programs of the tests' own say what real ones would."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.backends.oci.checkpoint_probe import probe_criu
from crib.backends.runtime_probe import probe_handler
from crib.model.facts import HandlerFacts
from crib.model.ids import HandlerName


def program(path: Path, *, version: str = "Version: 4.2.1", check: str = "echo Looks good.") -> str:
    path.write_text(f'#!/bin/sh\ncase "$1" in\n--version) echo "{version}";;\ncheck) {check};;\nesac\n')
    path.chmod(0o755)
    return str(path)


async def test_a_criu_that_is_new_enough_and_finds_what_it_needs_is_taken(tmp_path: Path) -> None:
    criu = await probe_criu(program(tmp_path / "criu"))
    assert (criu.version, criu.problem) == ("4.2.1", "")
    assert criu.search_path.startswith(f"{tmp_path}:")


async def test_a_criu_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = program(tmp_path / "criu")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (await probe_criu("")).path == wanted


async def test_without_a_criu_the_problem_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install criu" in (await probe_criu("")).problem


@pytest.mark.parametrize(
    ("version", "check", "words"),
    [
        ("Version: 3.17.1", "true", "at least 4.0 is needed"),
        ("hello", "true", "has no version in it"),
        ("Version: 4.2", "echo 'Error: no userfaultfd' >&2; exit 1", "no userfaultfd"),
    ],
    ids=["old", "another program", "a kernel without what it needs"],
)
async def test_a_criu_that_will_not_do_is_named_with_the_reason(
    tmp_path: Path, version: str, check: str, words: str
) -> None:
    criu = await probe_criu(program(tmp_path / "criu", version=version, check=check))
    assert words in criu.problem


async def test_a_criu_of_another_name_is_refused_because_no_runtime_would_find_it(tmp_path: Path) -> None:
    assert "must be called criu" in (await probe_criu(program(tmp_path / "criu-dev"))).problem


@pytest.mark.parametrize(
    ("annotation", "is_able"),
    [
        ("org.opencontainers.runc.checkpoint.enabled", True),
        ("run.oci.crun.checkpoint.enabled", True),
        ("org.opencontainers.runc.version", False),
    ],
)
async def test_a_runtime_says_by_its_features_whether_it_was_built_for_checkpoints(
    annotation: str, is_able: bool
) -> None:
    features = f'{{"ociVersionMax": "1.0.2", "annotations": {{"{annotation}": "true"}}}}'
    facts = await probe_handler(HandlerName("x"), "/bin/x", ("echo", features), "runc version 1.1.5")
    assert facts.checkpoint_problem == ("" if is_able else "/bin/x was built without support for criu")


def test_checkpoints_are_told_among_what_pods_of_a_handler_can_have() -> None:
    able = HandlerFacts("x", "x", "1", "1.0.2", True, True, True, checkpoints=True)
    unable = HandlerFacts(
        "x", "x", "1", "1.0.2", True, True, True, checkpoints=True, checkpoint_problem="no criu"
    )
    assert "checkpoints" in able.abilities
    assert "checkpoints" not in unable.abilities
