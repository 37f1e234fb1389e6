"""Logs that a pod may have exchanged, or that answer too late: looked at without harm, and let go of."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crib.backends.bundle.host_resources import check_log
from crib.backends.failures import trying
from crib.backends.oci import log_rotation, logs
from crib.backends.oci.logs import OpenLog, open_log, read_words
from crib.host.threads import Overdue
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState
from crib.model.errors import InvalidRequest, Unavailable, WrongState
from crib.model.ids import ContainerId, ImageId, SandboxId

POD = "p" * 64
BOUND = 30.0


@pytest.fixture(params=["fifo", "link", "directory", "device"])
def trap(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What a pod may put in the place of its log."""
    path = tmp_path / "0.log"
    match request.param:
        case "fifo":
            os.mkfifo(path)
        case "link":
            (tmp_path / "victim").write_text("secret")
            path.symlink_to(tmp_path / "victim")
        case "directory":
            path.mkdir()
        case "device":
            return "/dev/zero"
    return str(path)


async def test_only_a_regular_file_is_read_as_a_log(trap: str) -> None:
    with pytest.raises(OSError, match="regular file") as caught:
        open_log(trap)
    assert caught.value.errno == errno.EINVAL
    assert await asyncio.wait_for(read_words(trap, POD), BOUND) == b""
    with pytest.raises(InvalidRequest, match=rf"log_path: {trap} exists and is not a regular"):
        check_log(trap, "log_path")


async def test_last_words_are_those_of_a_short_log(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    check_log(str(log), "log_path")
    assert await read_words(str(log), POD) == b""
    for size, words in ((100, b"x" * 100), (10_000, b"")):
        log.write_bytes(b"x" * size)
        assert await read_words(str(log), POD) == words


def blocking(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> threading.Event:
    """Lets that function of a module begin its work only when the event is set."""
    answers, work = threading.Event(), getattr(module, name)

    def late(*args: object) -> object:
        answers.wait(BOUND)
        return work(*args)

    monkeypatch.setattr(logs, "LOG_TIME", 0.05)
    monkeypatch.setattr(module, name, late)
    return answers


async def comes_true(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not question():  # noqa: ASYNC110  # it gives no notice
            await asyncio.sleep(0.01)


async def test_a_log_that_opens_too_late_is_closed_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.log").touch()
    opened: list[io.FileIO] = []
    real = open_log

    def noted(path: str) -> io.FileIO:
        opened.append(real(path))
        return opened[-1]

    monkeypatch.setattr(logs, "open_log", noted)
    answers = blocking(monkeypatch, logs, "open_log")
    log = OpenLog(str(tmp_path / "0.log"), POD)
    with pytest.raises(Overdue, match="opening the log"):
        await log.open()
    began = time.monotonic()
    await log.close()
    assert time.monotonic() - began < BOUND / 2
    answers.set()
    await comes_true(lambda: bool(opened) and opened[0].closed)


def running(log: Path) -> ContainerRecord:
    return ContainerRecord(
        id=ContainerId("c" * 64),
        sandbox_id=SandboxId(POD),
        config=ContainerConfig(name="a", image="b"),
        state=ContainerState.RUNNING,
        created_at=0,
        image_id=ImageId("sha256:" + "a" * 64),
        image_ref="",
        layers=(),
        log_path=str(log),
    )


async def test_a_log_whose_rotation_hangs_or_is_cut_off_keeps_its_name_and_is_rotated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, reached = tmp_path / "0.log", asyncio.Event()
    log.write_text("long")

    async def reopen(record: ContainerRecord, bundle: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(log_rotation, "reopen", reopen)
    with monkeypatch.context() as hung:
        answers = blocking(hung, log_rotation, "set_aside")
        with pytest.raises(Overdue, match="rotating the log"):
            await log_rotation.rotate(running(log), str(tmp_path), 1, 3)
        answers.set()
        await comes_true(lambda: len(list(tmp_path.iterdir())) == 2)
    rotating = asyncio.ensure_future(log_rotation.rotate(running(log), str(tmp_path), 1, 3))
    async with asyncio.timeout(10):
        await reached.wait()
        rotating.cancel()
        await asyncio.wait([rotating])
    assert rotating.cancelled()
    (aside,) = (path for path in tmp_path.iterdir() if path != log)
    assert log.samefile(aside)


async def test_a_log_whose_monitor_has_ended_is_not_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("long")
    with pytest.raises(WrongState, match="its monitor has ended"):
        await log_rotation.rotate(running(log), str(tmp_path), 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["0.log"]


def test_what_took_too_long_is_unavailable_and_named_once() -> None:
    for words in ("create of container x: preparing its root: takes more than 1 s", "takes more than 1 s"):
        with (
            pytest.raises(Unavailable, match=r"^create of container x: .*takes more than 1 s$") as caught,
            trying("create of container x"),
        ):
            raise Overdue(words)
        assert str(caught.value).count("create of container") == 1


@pytest.mark.parametrize("odd", ["directory", "fifo", "link"])
async def test_a_monitor_is_not_told_to_open_its_log_anew_where_that_would_end_it_or_have_it_hang(
    odd: str, tmp_path: Path
) -> None:
    path = tmp_path / "0.log"
    match odd:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(f"{path}.tmp")
        case "link":
            Path(f"{path}.tmp").symlink_to("/etc/passwd")
    with pytest.raises(
        WrongState, match=r"0\.log is a directory|0\.log\.tmp exists and is not a regular file"
    ):
        await log_rotation.reopen(running(path), str(tmp_path))
