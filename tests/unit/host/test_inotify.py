"""Directory events as they happen."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest

from crib.host import inotify
from crib.host.inotify import DirectoryWatcher


async def test_files_written_and_renamed_into_place_give_events(tmp_path: Path) -> None:
    with DirectoryWatcher([str(tmp_path)]) as watcher:
        (tmp_path / "one").write_bytes(b"1")
        os.rename(tmp_path / "one", tmp_path / "two")
        os.unlink(tmp_path / "two")
        events = await asyncio.wait_for(watcher.next_events(), 10)
    assert [(event.name, event.mask) for event in events] == [
        ("one", inotify.CLOSE_WRITE),
        ("one", inotify.MOVED_FROM),
        ("two", inotify.MOVED_TO),
        ("two", inotify.DELETE),
    ]
    assert {event.directory for event in events} == {str(tmp_path)}
    assert not any(event.lost for event in events)


async def test_a_waiting_task_is_woken_by_a_later_event(tmp_path: Path) -> None:
    with DirectoryWatcher([str(tmp_path)], inotify.WRITTEN) as watcher:
        waiting = asyncio.ensure_future(anext(watcher))
        await asyncio.sleep(0)
        assert not waiting.done()
        (tmp_path / "exit").touch()
        assert (await asyncio.wait_for(waiting, 10)).name == "exit"


async def test_events_come_in_order_from_several_directories(tmp_path: Path) -> None:
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    for name in names:
        os.mkdir(name)
    with DirectoryWatcher(names, inotify.WRITTEN) as watcher:
        for number in range(6):
            Path(names[number % 2], str(number)).touch()
        got = []
        async for event in watcher:
            got.append((event.directory, event.name))
            if len(got) == 6:
                break
    assert got == [(names[number % 2], str(number)) for number in range(6)]


async def test_a_directory_that_goes_away_is_told_as_a_loss(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with DirectoryWatcher([str(tmp_path / "d")]) as watcher:
        (tmp_path / "d").rmdir()
        events = await asyncio.wait_for(watcher.next_events(), 10)
    assert events[-1].lost
    assert events[-1].directory == str(tmp_path / "d")


async def test_closing_ends_the_iteration(tmp_path: Path) -> None:
    watcher = DirectoryWatcher([str(tmp_path)])

    async def iterate() -> int:
        return len([event async for event in watcher])

    task = asyncio.ensure_future(iterate())
    await asyncio.sleep(0)
    watcher.close()
    watcher.close()
    assert await asyncio.wait_for(task, 10) == 0


async def test_cancelling_a_wait_leaves_the_watcher_usable(tmp_path: Path) -> None:
    with DirectoryWatcher([str(tmp_path)], inotify.WRITTEN) as watcher:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watcher.next_events(), 0.01)
        (tmp_path / "x").touch()
        assert [event.name for event in await asyncio.wait_for(watcher.next_events(), 10)] == ["x"]


def test_a_missing_directory_or_a_file_is_refused_and_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    gc.collect()  # what others left open goes now, not while it is counted
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        DirectoryWatcher([str(tmp_path / "missing")])
    with pytest.raises(NotADirectoryError):
        DirectoryWatcher([str(tmp_path / "file")])
    assert len(os.listdir("/proc/self/fd")) == before
