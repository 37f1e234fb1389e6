"""Programs of a daemon that was killed: found by their marks, ended with what they run, others left alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import strays
from tests.fakes.world import bounded

ENOUGH = 20.0


class Strays:
    """Programs of a test, each with marks of an owner; whatever is left of them is ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.owner = str(directory / "state")
        self._left: list[subprocess.Popen[bytes]] = []
        self._others: list[int] = []

    def script(self, text: str, name: str = "script") -> str:
        path = self._directory / name
        path.write_text(f"#!/bin/sh\nread word\necho $word\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def run(
        self, path: str, *arguments: str, owner: str | None = None, alone: bool = True
    ) -> subprocess.Popen[bytes]:
        """Started as plugins are, by default, and running; no marks for an empty owner."""
        marks = {} if owner == "" else strays.marks(owner or self.owner, path)
        made = subprocess.Popen(
            [path, *arguments],
            env={**os.environ, **marks},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=alone,
        )
        self._left.append(made)
        # Of a program that is just being started /proc tells nothing; this one is done with that.
        assert made.stdin is not None
        assert made.stdout is not None
        made.stdin.write(b"ready\n")
        made.stdin.flush()
        assert made.stdout.readline() == b"ready\n"
        return made

    def told_pid(self, program: subprocess.Popen[bytes]) -> int:
        """The process that it says it has started; by then it is there."""
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        self._others.append(pid)
        return pid

    def end(self) -> None:
        for pid in (*self._others, *(one.pid for one in self._left if one.poll() is None)):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        for one in self._left:
            one.communicate()


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Strays]:
    made = Strays(tmp_path)
    yield made
    made.end()


async def ended(lab: Strays) -> int:
    async with bounded():
        return await strays.end_programs(lab.owner, timeout=ENOUGH)


async def test_a_program_at_work_is_ended_with_what_it_runs(lab: Strays) -> None:
    program = lab.run(lab.script("sleep 1000 & echo $!; wait"))
    child = lab.told_pid(program)
    assert await ended(lab) == 1
    assert program.wait(ENOUGH) == -signal.SIGKILL
    assert not is_running(child)
    assert await ended(lab) == 0


async def test_a_program_that_is_no_script_is_found_too(lab: Strays, tmp_path: Path) -> None:
    (tmp_path / "binary").symlink_to("/bin/cat")
    programs = [lab.run(str(tmp_path / "binary")), lab.run(lab.script("read line"))]
    assert await ended(lab) == 2
    assert [program.wait(ENOUGH) for program in programs] == [-signal.SIGKILL] * 2


async def test_a_server_that_it_left_on_purpose_stays(lab: Strays) -> None:
    program = lab.run(lab.script("setsid sh -c 'echo $$; exec sleep 1000' & wait"))
    server = lab.told_pid(program)
    assert await ended(lab) == 1
    assert program.wait(ENOUGH) == -signal.SIGKILL
    assert is_running(server)


async def test_what_is_not_a_program_of_that_owner_at_its_work_is_let_alone(lab: Strays) -> None:
    script = lab.script("read line")
    others = {
        "another owner's": lab.run(script, owner=f"{lab.owner}2"),
        "run with arguments": lab.run(script, "serve"),
        "in a group of somebody else": lab.run(script, alone=False),
        "not marked": lab.run(script, owner=""),
    }
    assert await ended(lab) == 0
    assert {what for what, program in others.items() if program.poll() is None} == set(others)


async def test_one_that_does_not_die_is_told(lab: Strays, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run(lab.script("read line"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda _group, _signal: None)
        with pytest.raises(TimeoutError):
            await strays.end_programs(lab.owner, timeout=0.05)
    assert await ended(lab) == 1


def test_a_program_is_found_by_arguments_that_follow_each_other(lab: Strays) -> None:
    script = lab.script("read line")
    found = lab.run(script, "exec", "--process", "/a b/c.json", "x")
    lab.run(script, "exec", "--process", "/a b/c.jsonl")
    lab.run(script, "/a b/c.json", "--process")
    assert strays.programs_with("--process", "/a b/c.json") == [found.pid]
