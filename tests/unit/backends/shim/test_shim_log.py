"""What a shim says of itself is read always, and told within a bound."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.backends.shim import shim_log
from crib.backends.shim.shim_log import LINES, ShimLog
from crib.host.streams import unread_bytes
from tests.system.labs.oci_streams import comes_true


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[ShimLog]:
    made = await ShimLog.open("shim1", str(tmp_path))
    yield made
    made.close()


async def taken(path: Path) -> None:
    """Until all that was written has been read."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        await comes_true(lambda: not unread_bytes(fd))
    finally:
        os.close(fd)


async def test_lines_are_told_by_their_level(
    log: ShimLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=shim_log.__name__)
    (tmp_path / "log").write_bytes(b'time="x" level=error msg="no"\ntime="x" level=info msg="yes"\nplain\n\n')
    await taken(tmp_path / "log")
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.DEBUG, logging.INFO]
    assert "shim shim1: " in caplog.text


async def test_a_flood_is_read_and_most_of_it_left_out(
    log: ShimLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=shim_log.__name__)
    writer = os.open(tmp_path / "log", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for _ in range(100):
            os.write(writer, b"level=error msg=x\n" * 20)
            await taken(tmp_path / "log")
    finally:
        os.close(writer)
    assert len(caplog.records) == LINES
    log.close()
    assert f"{2000 - LINES} more lines were left out" in caplog.text


async def test_a_line_without_an_end_takes_no_room(log: ShimLog, tmp_path: Path) -> None:
    writer = os.open(tmp_path / "log", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for _ in range(20):
            os.write(writer, b"x" * 4096)
            await taken(tmp_path / "log")
            assert len(log._rest) <= shim_log.READ_BYTES
    finally:
        os.close(writer)
