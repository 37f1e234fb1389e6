"""Sealed copies of programs."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from crib.host import sealed
from crib.host.processes import run

_GET_SEALS = 1034


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sealed, "_copies", {})
    copy = tmp_path / "program"
    shutil.copy("/bin/true", copy)
    return str(copy)


async def test_a_sealed_program_runs_from_a_copy_that_nobody_can_change(program: str) -> None:
    assert sealed.executable(program) == program
    assert sealed.seal(program)
    path = sealed.executable(program)
    assert os.readlink(path).startswith("/memfd:program")
    fd = int(path.rpartition("/")[2])
    assert fcntl.fcntl(fd, _GET_SEALS) == 0xF
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    assert (await run([program])).exit_code == 0


async def test_a_program_that_is_replaced_runs_anew_and_the_old_copy_stays_for_those_who_have_it(
    program: str,
) -> None:
    sealed.seal(program)
    old = sealed.executable(program)
    os.unlink(program)
    shutil.copy("/bin/false", program)
    assert sealed.executable(program) != old
    assert (await run([program])).exit_code == 1
    assert os.path.exists(old)


async def test_a_program_that_is_gone_is_told_as_such(program: str) -> None:
    sealed.seal(program)
    os.unlink(program)
    assert sealed.executable(program) == program
    with pytest.raises(FileNotFoundError):
        await run([program])


def test_a_script_is_not_sealed(tmp_path: Path, program: str) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not sealed.seal(str(script))
    assert sealed.executable(str(script)) == str(script)
    assert not sealed.seal(str(tmp_path / "nothing"))
