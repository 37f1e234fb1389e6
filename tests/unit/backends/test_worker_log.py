"""What a worker writes comes into the log as lines, bounded and clean."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from crib.backends.images import worker_log
from crib.backends.images.worker_log import MAX_LINE, MAX_LINES, READ_BYTES, WorkerLog


class Lab:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.log = WorkerLog(self.lines.append)
        self.worker = os.dup(self.log.worker_end)
        self.log.start()

    async def until_ended(self) -> list[str]:
        os.close(self.worker)
        for _ in range(100):
            if not self.log._open:
                break
            await asyncio.sleep(worker_log.PAUSE_SECONDS)  # as long as it waits itself
        return self.lines


async def test_lines_come_whole_and_the_last_one_without_its_end() -> None:
    lab = Lab()
    os.write(lab.worker, b"one\ntw")
    os.write(lab.worker, b"o\n\nthree")
    assert await lab.until_ended() == ["one", "two", "three"]


async def test_control_characters_and_secrets_do_not_come_into_the_log() -> None:
    lab = Lab()
    os.write(lab.worker, b"a\x1b[2Jb\x07\xc2\x9bc\xff\rhttps://x.example/y?X-Signature=abc\n")
    text = "".join(await lab.until_ended())
    assert text.isprintable()
    assert "X-Signature" not in text


async def test_a_line_without_an_end_is_kept_in_part_only() -> None:
    lab = Lab()
    for _ in range(3):
        os.write(lab.worker, b"x" * (READ_BYTES - 1))
    os.write(lab.worker, b"\nnext\n")
    first, second = await lab.until_ended()
    assert first == ("x" * MAX_LINE)[: len(first)]
    assert second == "next"


async def test_more_lines_than_anybody_reads_are_counted() -> None:
    lab = Lab()
    os.write(lab.worker, b"".join(b"line %d\n" % number for number in range(MAX_LINES + 7)))
    lines = await lab.until_ended()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == "7 lines more, which are left out"


async def test_a_flood_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_log, "PAUSE_SECONDS", 3600.0)
    lab = Lab()
    os.set_blocking(lab.worker, False)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while written < 1 << 20:
            written += os.write(lab.worker, bytes(4096))
            # The loop gets its turn each time, and would read it.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert written <= READ_BYTES + (1 << 16) + 4096
    os.close(lab.worker)
    lab.log.close()
    lab.log.close()
    assert not lab.log._open
