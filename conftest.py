"""`--rooms`, in script/nightly: after the whole suite, each folder of src/crib must be covered."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "src" / "crib"
LEAST = 90.0
"""Per cent of the statements in a folder's own modules that the tests run."""
EXCEPTIONS: dict[str, float] = {}
"""Folders below that, and what they must reach at least. This list only shrinks."""
UNSEEN = {
    "backends/images/worker/main.py",
    "backends/images/unpacked/unpack_main.py",
    "host/confinement.py",
}
"""Run by tests/system in processes that may not write down what was run: the image worker, and unpackers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rooms", action="store_true", help="judge coverage by folder (needs --cov=crib)")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if not config.getoption("--rooms") or hasattr(config, "workerinput"):
        return
    plugin: Any = config.pluginmanager.getplugin("_cov")
    if plugin is None or plugin.cov_controller is None:
        raise pytest.UsageError("--rooms needs --cov=crib")
    complaints = judge(room_coverage(plugin.cov_controller.cov))
    config.stash[COMPLAINTS] = complaints
    if complaints and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


COMPLAINTS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for complaint in config.stash.get(COMPLAINTS, []):
        terminalreporter.write_line(f"coverage by room: {complaint}", red=True)


def room_coverage(coverage: Any) -> dict[str, float]:
    """Per cent of the statements of each folder that were run; what lies deeper is a folder of its own."""
    statements: dict[str, int] = defaultdict(int)
    missing: dict[str, int] = defaultdict(int)
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE)
        if name.parts[0] == "stubs" or str(name) in UNSEEN:
            continue
        room = str("crib" / name.parent)
        _, lines, _, missed, _ = coverage.analysis2(str(path))
        statements[room] += len(lines)
        missing[room] += len(missed)
    return {room: 100.0 * (1 - missing[room] / total) for room, total in statements.items() if total}


def judge(rooms: dict[str, float]) -> list[str]:
    """What is wrong with these figures, a line each."""
    complaints = []
    for room, percent in sorted(rooms.items()):
        least = EXCEPTIONS.get(room, LEAST)
        if percent < least:
            complaints.append(f"{room} is covered {percent:.1f} %, it must be {least:.0f} %")
        elif room in EXCEPTIONS and percent >= LEAST:
            complaints.append(f"{room} is covered {percent:.1f} % now: take it off the list of exceptions")
    return complaints
