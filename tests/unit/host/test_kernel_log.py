"""Reading the kernel's log: from a pipe that gives a record at a time as /dev/kmsg does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import kernel_log
from crib.host.kernel_log import read_kernel_log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Its path, and where records are written to."""
    path = f"{tmp_path}/kmsg"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_DIRECT)  # each write is a packet (pipe(2))
    yield path, writer
    os.close(writer)


def test_the_text_of_each_record_is_read_to_the_latest(log: tuple[str, int]) -> None:
    path, writer = log
    os.write(writer, b"6,1,5,-;first; with a semicolon\n SUBSYSTEM=net\n")
    os.write(writer, b"4,2,6,c;second \xff\n")
    assert list(read_kernel_log(path)) == ["first; with a semicolon", "second \ufffd"]


def test_a_kernel_that_logs_all_the_time_ends_the_reading_too(
    log: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = log
    monkeypatch.setattr(kernel_log, "MOST_RECORDS", 2)
    for number in range(4):
        os.write(writer, b"6,1,5,-;%d\n" % number)
    assert list(read_kernel_log(path)) == ["0", "1"]


def test_a_log_that_may_not_be_read_is_empty(tmp_path: Path) -> None:
    assert list(read_kernel_log(f"{tmp_path}/none")) == []
    assert list(read_kernel_log(str(tmp_path))) == []
