"""Threads and namespaces, as far as they need no rights."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from crib.host import namespaces, threads


def test_bad_requests_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can be pinned"):
        namespaces.pin_namespaces([], str(tmp_path))
    with pytest.raises(ValueError, match="can be pinned"):
        namespaces.pin_namespaces(["mnt"], str(tmp_path))
    with pytest.raises(ValueError, match="UTS"):
        namespaces.pin_namespaces(["net"], str(tmp_path), hostname="x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_namespace_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        namespaces.run_in_namespace(str(tmp_path / "net"), "net", lambda: None)
    assert caught.value.filename == str(tmp_path / "net")


async def test_a_cancelled_wait_ends_only_after_the_thread() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(10)
        done.set()

    task = asyncio.ensure_future(threads.on_own_thread_async(work))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert done.is_set()
