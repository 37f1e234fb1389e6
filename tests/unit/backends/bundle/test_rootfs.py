"""The removal of a writable layer, whose disk may hang and fail later."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from crib.backends.bundle import rootfs
from crib.host.threads import Overdue, Threads
from crib.model.ids import new_container_id
from crib.model.paths import Paths
from tests.heard_logs import heard_logs

BOUND = 20.0
CONTAINER = new_container_id()


async def test_a_removal_that_fails_after_it_was_given_up_is_told_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()

    def hang(path: str) -> None:
        answers.wait(BOUND)
        raise OSError(errno.EIO, "input/output error", path)

    monkeypatch.setattr(rootfs, "remove_tree", hang)
    monkeypatch.setattr(rootfs, "WRITABLE_SECONDS", 0.05)
    monkeypatch.setattr(rootfs, "OURS", Threads("test", 1))
    await rootfs.remove_writable_layer(Paths(str(tmp_path), str(tmp_path)), CONTAINER)
    assert "takes more than 0.05 s" in caplog.text
    async with heard_logs("crib.backends.bundle.rootfs") as heard:
        answers.set()
        await heard(f"the writable layer of container {CONTAINER} stays")


async def test_a_removal_that_fails_while_it_is_waited_for_or_finds_no_thread_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EIO, "input/output error", path)

    paths = Paths(str(tmp_path), str(tmp_path))
    monkeypatch.setattr(rootfs, "remove_tree", fail)
    with pytest.raises(OSError, match="input/output error"):
        await rootfs.remove_writable_layer(paths, CONTAINER)
    monkeypatch.setattr(rootfs, "OURS", Threads("test", 0, hanging=1))
    monkeypatch.setattr(rootfs, "WRITABLE_SECONDS", 0.05)
    with pytest.raises(Overdue):
        await rootfs.remove_writable_layer(paths, CONTAINER)
