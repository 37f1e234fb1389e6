"""Logs that a pod may have exchanged, or that answer too late: looked at without harm, and let go of."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from crib.backends.bundle.host_resources import check_log
from crib.backends.failures import trying
from crib.backends.oci.log_reopening import reopen
from crib.backends.streams import log_rotation, logs
from crib.backends.streams.logs import OpenLog, latest_output, odd_logs, open_log, read_words, remove_unused
from crib.host.threads import Overdue
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState
from crib.model.errors import InvalidRequest, Unavailable, WrongState
from crib.model.ids import ContainerId, ImageId, SandboxId
from tests.contract.records_samples import full_container, full_sandbox

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

    async def renew() -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as hung:
        answers = blocking(hung, log_rotation, "set_aside")
        with pytest.raises(Overdue, match="rotating the log"):
            await log_rotation.rotate(running(log), renew, 1, 3)
        answers.set()
        await comes_true(lambda: len(list(tmp_path.iterdir())) == 2)
    rotating = asyncio.ensure_future(log_rotation.rotate(running(log), renew, 1, 3))
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
        await log_rotation.rotate(running(log), partial(reopen, running(log), str(tmp_path)), 1, 3)
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
        await reopen(running(path), str(tmp_path))


def test_logs_and_what_was_set_aside_of_them_are_the_containers_and_all_else_is_told(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    mine = (log, tmp_path / "0.log.20260101-000000", tmp_path / "0.log.20260101-000000.gz")
    odd = (tmp_path / "0.logs", tmp_path / "other", tmp_path / "0.log.d" / "file")
    (tmp_path / "0.log.d").mkdir()
    for path in (*mine, *odd):
        path.touch()
    pod = full_sandbox()
    pod = replace(pod, config=replace(pod.config, log_directory=str(tmp_path)))
    container = replace(full_container(), log_path=str(log), state=ContainerState.RUNNING)
    assert {path for path, _ in odd_logs([pod], [container])} == set(map(str, odd))
    log.unlink()
    assert (str(log), f"its file is gone: what container {container.id} writes is lost") in odd_logs(
        [pod], [container]
    )


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

    monkeypatch.setattr(logs, "_remove_empty", hang)
    monkeypatch.setattr(logs, "LOG_TIME", 0.05)
    began = time.monotonic()
    await remove_unused(str(tmp_path / "0.log"), "pod")
    assert time.monotonic() - began < 30
    answers.set()


STAMP = "2026-01-01T00:00:00.000000000+01:00"


def lines(*entries: tuple[str, str, str]) -> str:
    return "".join(f"{STAMP} {stream} {tag} {text}\n" for stream, tag, text in entries)


@pytest.fixture
def log_of(tmp_path: Path) -> Iterator[Callable[[str], tuple[int, int]]]:
    """Opens a log of that content; descriptor and size."""
    opened: list[int] = []

    def make(text: str) -> tuple[int, int]:
        path = tmp_path / f"{len(opened)}.log"
        path.write_text(text)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1], len(text)

    yield make
    for fd in opened:
        os.close(fd)


def test_the_latest_whole_lines_of_both_streams_are_kept(log_of: Callable[[str], tuple[int, int]]) -> None:
    log, size = log_of(lines(("stdout", "F", "one"), ("stderr", "F", "two"), ("stdout", "F", "three")))
    assert latest_output(log, size, 100, {}) == {"stdout": b"one\nthree\n", "stderr": b"two\n"}
    assert latest_output(log, size, 11, {}) == {"stdout": b"three\n", "stderr": b"two\n"}
    assert latest_output(log, size, 9, {}) == {"stdout": b"three\n"}
    assert latest_output(log, size, 3, {}) == {"stdout": b"ee\n"}
    assert latest_output(log, 0, 100, {}) == {}


def test_parts_are_joined_and_a_prompt_stays_without_a_newline(
    log_of: Callable[[str], tuple[int, int]],
) -> None:
    log, size = log_of(lines(("stdout", "P", "lo"), ("stdout", "F", "ng\r"), ("stdout", "P", "$ ")))
    assert latest_output(log, size, 100, {}) == {"stdout": b"long\r\n$ "}


def test_what_came_by_another_way_is_left_out_stream_by_stream(
    log_of: Callable[[str], tuple[int, int]],
) -> None:
    log, size = log_of(lines(("stdout", "F", "one"), ("stderr", "F", "two"), ("stdout", "F", "three")))
    assert latest_output(log, size, 100, {"stdout": 6, "stderr": 1}) == {"stdout": b"one\n", "stderr": b"two"}
    assert latest_output(log, size, 100, {"stdout": 8}) == {"stdout": b"on", "stderr": b"two\n"}
    assert latest_output(log, size, 100, {"stdout": 1000, "stderr": 1000}) == {}


def test_what_lies_after_the_size_and_what_is_no_entry_is_not_looked_at(
    log_of: Callable[[str], tuple[int, int]],
) -> None:
    text = lines(("stdout", "F", "one")) + "torn"
    log, _size = log_of(text + lines(("stdout", "F", "later")))
    assert latest_output(log, len(text), 100, {}) == {"stdout": b"one\n"}
    log, size = log_of("nonsense\n" + lines(("stdout", "F", "one")))
    assert latest_output(log, size, 100, {}) == {"stdout": b"one\n"}


def test_a_long_log_is_read_from_its_end_within_bounds(
    log_of: Callable[[str], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, size = log_of(lines(*(("stdout", "F", str(number)) for number in range(10_000))))
    found = latest_output(log, size, 20_000, {})["stdout"].decode().splitlines()
    assert found == [str(number) for number in range(10_000 - 4000, 10_000)]
    monkeypatch.setattr(logs, "_FIRST_WINDOW", 100)
    assert latest_output(log, size, 10, {}) == {"stdout": b"9998\n9999\n"}
    monkeypatch.setattr(logs, "REPLAY_LIMIT", 5)
    assert latest_output(log, size, 20_000, {}) == {"stdout": b"9999\n"}
    monkeypatch.setattr(logs, "_WINDOW_LIMIT", 100)
    log, size = log_of(lines(*(("stdout", "F", "") for _ in range(1000))))
    assert latest_output(log, size, 3, {}) == {"stdout": b"\n\n"}
