"""What is left of a read when the daemon is killed over it, at each step between the fifo and the log."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crib.backends.shim.chunks import CHUNK_BYTES, Chunks
from crib.model.ids import ContainerId, new_container_id
from crib.wire.crilog import parse_line
from tests.unit.backends.shim.fifo_lab import lines

FIRST = b"2016-10-06T00:17:09.069794202Z stdout F first\n"
STEPS = ("before the read", "after the read", "before the write", "in the write", "after the write")


class Killed(BaseException):
    """At once: nothing that would be done at an end is done."""


def killed(*_args: object) -> Any:
    raise Killed


def cut_off(*, after: int) -> Callable[[int, bytes], int]:
    """A write of so many bytes, in the middle of which the daemon is killed."""
    real, calls = os.write, [0]

    def write(fd: int, data: bytes) -> int:
        calls[0] += 1
        return real(fd, data[:after]) if calls[0] == 1 else killed()

    return write


def contents(log: Path) -> bytes:
    return b"\n".join(lines(log)[1:])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("written", [b"abc", b"0123456789abcde\n" * (CHUNK_BYTES // 16)])
def test_nothing_of_it_is_lost_and_nothing_is_written_twice(
    step: str, written: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, path = new_container_id(), tmp_path / "0.log"
    path.write_bytes(FIRST)
    log = os.open(path, os.O_WRONLY | os.O_APPEND)
    out, into = os.pipe()
    os.write(into, written)
    chunk = Chunks(str(tmp_path / "chunks"), 1).take()

    def carry() -> None:
        chunk.fill(out, container, "stdout")
        if step != "after the read":
            chunk.put_into(log)
        killed()

    with monkeypatch.context() as dying:
        match step:
            case "before the read":
                dying.setattr("os.readv", killed)
            case "before the write":
                dying.setattr("os.write", killed)
            case "in the write":
                dying.setattr("os.write", cut_off(after=len(written) // 2 + 20))
        with pytest.raises(Killed):
            carry()
    again = Chunks(str(tmp_path / "chunks"), 1)
    assert list(again.left_of(new_container_id())) == []
    for left in again.left_of(container):
        left.finish(log)
        again.give(left)
    if step == "before the read":
        assert contents(path) == b""
        chunk = again.take()
        assert chunk.fill(out, container, "stdout") == written
        chunk.put_into(log)
    assert contents(path) == written.rstrip(b"\n")
    for fd in (log, out, into):
        os.close(fd)


def test_of_a_log_that_was_rotated_meanwhile_the_new_one_gets_it(tmp_path: Path) -> None:
    container, path = new_container_id(), tmp_path / "0.log"
    chunk, out = _filled(tmp_path, container)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chunk.put_into(log)
    os.close(log)
    path.rename(tmp_path / "0.log.20260101-000000")
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    (left,) = Chunks(str(tmp_path / "chunks"), 1).left_of(container)
    left.finish(log)
    assert parse_line(path.read_bytes().rstrip(b"\n")).content == b"abc"
    os.close(log)
    os.close(out)


def test_only_as_many_stay_as_are_needed_mostly(tmp_path: Path) -> None:
    chunks = Chunks(str(tmp_path), 2)
    taken = [chunks.take() for _number in range(5)]
    assert len(list(tmp_path.iterdir())) == 5
    for chunk in taken:
        chunks.give(chunk)
    assert len(list(tmp_path.iterdir())) == 2
    assert chunks.take() is not chunks.take()
    chunks.close()


def test_a_full_disk_leaves_no_torn_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk, out = _filled(tmp_path, new_container_id(), b"one\ntwo\n")
    path = tmp_path / "0.log"
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if path.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: len(data) - 3])

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match="No space left"):
        chunk.put_into(log)
    assert lines(path) == [b"one"]
    assert path.read_bytes().endswith(b" one\n")
    os.close(log)
    os.close(out)


def test_where_the_state_directory_is_full_reads_go_on_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    chunk, out = _filled(tmp_path, new_container_id())
    log = os.open(tmp_path / "0.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chunk.put_into(log)
    assert lines(tmp_path / "0.log") == [b"abc"]
    assert "would not survive a kill" in caplog.text
    os.close(log)
    os.close(out)


def _filled(tmp_path: Path, container: ContainerId, written: bytes = b"abc") -> tuple[Any, int]:
    out, into = os.pipe()
    os.write(into, written)
    os.close(into)
    chunk = Chunks(str(tmp_path / "chunks"), 1).take()
    chunk.fill(out, container, "stdout")
    return chunk, out
