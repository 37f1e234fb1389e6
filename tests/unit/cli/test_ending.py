"""What the program ends with when its standard streams are missing, or nobody reads them any more."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.cli.session import CliSession
from tests.unit.cli.stream_pod import CRIB, serving
from tests.unit.client.fake_runtime import World
from tests.unit.streaming.lab import BOUND, Command, Lab, cat

Served = tuple[CliSession, World, Lab]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


async def speak(command: Command) -> int:
    assert command.stderr is not None
    await command.say(b"out")
    await command.stderr.write(b"err")
    return 7


async def shut(
    session: CliSession, redirection: str, *words: str, stdin: bytes = b"input"
) -> subprocess.CompletedProcess[bytes]:
    """`crib` with a standard stream shut."""
    return await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *CRIB, "-e", session.endpoint, *words],
        input=stdin,
        capture_output=True,
        timeout=BOUND,
        check=False,
    )


async def unread(session: CliSession, *words: str, read: int = 0) -> tuple[int, bytes]:
    """`crib` with a standard output whose reader goes when it has read so much: exit code, standard error."""
    return await asyncio.to_thread(_unread, [*CRIB, "-e", session.endpoint, *words], read)


def _unread(argv: list[str], read: int) -> tuple[int, bytes]:
    reading, writing = os.pipe()
    with subprocess.Popen(argv, stdout=writing, stderr=subprocess.PIPE) as program:
        os.close(writing)
        while read:
            data = os.read(reading, read)
            assert data
            read -= len(data)
        os.close(reading)
        said = program.communicate(timeout=BOUND)[1]
        return program.returncode, said


async def test_a_reader_that_goes_amid_output_makes_it_141(served: Served) -> None:
    session, _, lab = served

    async def speaks_on(command: Command) -> int:
        while True:
            await command.say(b"yes\n" * 1000)

    lab.script = speaks_on
    assert await unread(session, "exec", "web", "yes", read=100_000) == (141, b"")


@pytest.mark.parametrize("words", [["pods"], ["exec", "web", "ls"], ["--version"], ["exec", "--help"]])
async def test_a_reader_that_was_never_there_makes_it_141(served: Served, words: list[str]) -> None:
    session, _, lab = served

    async def speaks(command: Command) -> int:
        await command.say(b"out")
        return 0

    lab.script = speaks
    assert await unread(session, *words) == (141, b"")


async def test_no_input_is_one_that_has_ended(served: Served) -> None:
    session, _, lab = served
    lab.script = cat
    done = await shut(session, "<&-", "exec", "-i", "web", "cat")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("redirection", "out", "err"),
    [(">&-", b"", b"err"), ("2>&-", b"out", b""), ("<&- >&- 2>&-", b"", b"")],
)
async def test_what_is_written_to_a_stream_that_is_shut_goes_nowhere(
    served: Served, redirection: str, out: bytes, err: bytes
) -> None:
    session, _, lab = served
    lab.script = speak
    done = await shut(session, redirection, "exec", "-i", "web", "ls")
    assert (done.returncode, done.stdout, done.stderr) == (7, out, err)


async def test_results_and_words_without_a_stream_go_nowhere(served: Served) -> None:
    session, _, _ = served
    for redirection, words, code in ((">&-", ["inspect", "web"], 0), ("2>&-", ["stop", "nothing"], 1)):
        done = await shut(session, redirection, *words)
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
