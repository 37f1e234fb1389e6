"""What is said just after the end of a command, and what a terminal is told when one attaches to it again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.host import streams
from crib.model.streams import TerminalSize
from tests.system.labs.oci_setup import OciLab, oci_lab
from tests.system.labs.oci_streams import Box, attached, box, comes_true, finish, until

pytestmark = [pytest.mark.root, pytest.mark.system]

both_kinds = pytest.mark.parametrize("tty", [False, True])


@pytest.fixture
async def lab() -> AsyncIterator[OciLab]:
    async with oci_lab() as made:
        yield made


@pytest.fixture
async def made(lab: OciLab) -> AsyncIterator[Box]:
    async with box(lab) as running:
        yield running


@both_kinds
async def test_a_child_that_writes_once_its_parent_is_gone_is_heard(
    made: Box, monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    """As what bash leaves of `> >(tee log)`. The parent is gone only when we have heard of its end."""
    monkeypatch.setattr(streams, "LAST_WORDS", 60.0)
    script = "trap '' HUP; (while [ -d /proc/$$ ]; do :; done; sleep 0.05; echo last) & exit 3"
    began = time.monotonic()
    code, out, _err = await finish(await made.exec("sh", "-c", script, tty=tty))
    assert (code, out.split()) == (3, [b"last"])
    assert time.monotonic() - began < 30, "the end of the child is the end"


@both_kinds
async def test_a_child_that_says_nothing_delays_the_end_by_that_moment_and_no_more(
    made: Box, monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    monkeypatch.setattr(streams, "LAST_WORDS", 0.5)
    began = time.monotonic()
    script = "trap '' HUP; sleep 300 & echo started"
    code, out, _err = await finish(await made.exec("sh", "-c", script, tty=tty))
    assert (code, out.split()) == (0, [b"started"])
    assert 0.5 <= time.monotonic() - began < 10


async def test_who_attaches_again_with_the_same_size_has_the_screen_drawn_anew(lab: OciLab) -> None:
    """As kubectl does it: one size too large, then the right one, at once."""
    script = "trap 'busybox stty size' WINCH; echo ready; while true; do sleep 0.02; done"
    async with box(lab, "sh", "-c", script, stdin=True, tty=True) as made:
        await comes_true(lambda: "ready" in Path(made.record.log_path).read_text())
        for _attach in range(3):
            session = await attached(made, tty=True)
            for width, height in ((81, 25), (80, 24)):
                session.resize(TerminalSize(width, height))
            assert b"24 80\r\n" in await until(session.stdout, b"24 80\r\n")
            await session.close()
