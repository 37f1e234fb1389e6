"""The log of a container that was never made: gone if it is one, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from crib.backends.oci import logs, unused_logs
from crib.backends.oci.unused_logs import remove_unused


async def test_an_empty_log_is_removed_and_a_missing_one_is_fine(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.touch()
    for path in (log, log, tmp_path / "nowhere" / "0.log"):
        await remove_unused(str(path), "pod")
    assert list(tmp_path.iterdir()) == []


async def test_what_has_content_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("a warning of the runtime\n")
    await remove_unused(str(log), "pod")
    assert log.exists()


async def test_links_fifos_and_directories_that_a_pod_put_there_are_left_alone(tmp_path: Path) -> None:
    """As CVE-2021-25741 and its kin: a pod writes to its own log directory, and root acts there."""
    victim = tmp_path / "victim"
    (victim / "logs").mkdir(parents=True)
    for name in ("empty", "logs/0.log"):
        (victim / name).touch()
    traps = tmp_path / "pod"
    traps.mkdir()
    (traps / "link").symlink_to(victim / "empty")
    os.link(victim / "empty", traps / "hard")
    os.mkfifo(traps / "fifo")
    (traps / "directory").mkdir()
    (traps / "container").symlink_to(victim / "logs")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for name in ("link", "hard", "fifo", "directory", "container/0.log"):
        await remove_unused(str(traps / name), "pod")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


async def test_a_log_directory_that_does_not_answer_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_path: str) -> None:
        asyncio.run_coroutine_threadsafe(answers.wait(), loop).result()

    monkeypatch.setattr(unused_logs, "_remove_empty", hang)
    monkeypatch.setattr(logs, "LOG_TIME", 0.05)
    began = time.monotonic()
    await remove_unused(str(tmp_path / "0.log"), "pod")
    assert time.monotonic() - began < 30
    answers.set()
