"""The supervisor as the daemon's child: what it tells, how it is started again, and its end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from crib.backends.keeping import child as module
from crib.backends.keeping.child import SupervisorChild
from crib.wire.kept import PodReport, encode_report

BOUND = 60.0
REPORT = PodReport("u1", "Running")
TELLS = f"import sys; print({encode_report(REPORT).decode()!r}, end='', flush=True); sys.stdin.read()"
TELLS_NONSENSE = f"print('nonsense', flush=True); {TELLS}"


class Heard:
    def __init__(self) -> None:
        self.reports: asyncio.Queue[PodReport] = asyncio.Queue()
        self.problems: asyncio.Queue[str] = asyncio.Queue()


def child_of(monkeypatch: pytest.MonkeyPatch, script: str, directory: Path) -> tuple[SupervisorChild, Heard]:
    monkeypatch.setattr(module, "_START", script)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    heard = Heard()
    made = SupervisorChild("unix:///nowhere", str(directory), heard.reports.put_nowait)
    made.changed = heard.problems.put_nowait
    return made, heard


async def within(waiting: asyncio.Queue[str] | asyncio.Queue[PodReport]) -> object:
    async with asyncio.timeout(BOUND):
        return await waiting.get()


@pytest.mark.parametrize("script", [TELLS, TELLS_NONSENSE])
async def test_its_reports_are_told_until_it_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    made, heard = child_of(monkeypatch, script, tmp_path)
    made.want()
    assert await within(heard.reports) == REPORT
    assert made.pid
    await made.close()
    assert made.pid is None


async def test_one_that_ends_is_told_and_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "once"
    script = (
        f"import os, sys; os.path.exists({str(mark)!r}) or (open({str(mark)!r}, 'w'), sys.exit(3)); {TELLS}"
    )
    made, heard = child_of(monkeypatch, script, tmp_path)
    made.want()
    assert await within(heard.problems) == "the supervisor ended (exit code 3)"
    assert await within(heard.reports) == REPORT
    assert await within(heard.problems) == ""
    await made.close()


async def test_one_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, heard = child_of(monkeypatch, TELLS, tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    made.want()
    told = await within(heard.problems)
    assert isinstance(told, str)
    assert told.startswith("the supervisor cannot be started: ")
    await made.close()


async def test_one_that_had_nothing_to_do_is_started_when_there_is_something(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, heard = child_of(monkeypatch, TELLS, tmp_path)
    monkeypatch.setattr(module, "_START", "pass")
    made.want()
    async with asyncio.timeout(BOUND):
        while made.pid is None:  # noqa: ASYNC110  # started in a task of its own
            await asyncio.sleep(0.005)
        while made.pid is not None:  # noqa: ASYNC110  # nobody is told of an end without a problem
            await asyncio.sleep(0.005)
    assert made.problem == ""
    monkeypatch.setattr(module, "_START", TELLS)
    made.want()
    assert await within(heard.reports) == REPORT
    await made.close()
