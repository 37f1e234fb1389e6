"""Attaching to containers at the handler's port: real monitors, several clients, slow ones, ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.oci.handler import OciHandler
from crib.backends.streams.attach_sessions import SESSION_BYTES
from crib.ends import Session
from crib.model.errors import Exhausted, WrongState
from crib.model.settings import StreamingSettings
from crib.model.streams import AttachRequest, TerminalSize
from tests.system.labs.oci_setup import LAYER, OciLab, PlainLayers, PodLab, oci_lab
from tests.system.labs.oci_streams import Box, attached, box, comes_true, descriptors, finish, rest, until
from tests.system.labs.shim_setup import pod_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

LONGEST_READ = 64 << 10
ECHO = "while read line; do echo out:$line; echo err:$line >&2; done; echo over; exit 3"


@pytest.fixture(params=["crun", "shim of crun"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[PodLab]:
    async with pod_lab(request.param) as made:
        yield made


@pytest.fixture
async def monitored() -> AsyncIterator[OciLab]:
    """With a monitor for each container."""
    async with oci_lab() as made:
        yield made


async def say(session: Session, text: bytes) -> None:
    assert session.stdin is not None
    await session.stdin.write(text)


def restarted(lab: OciLab, **settings: object) -> OciHandler:
    """The handler of the next daemon over the same world."""
    options = replace(lab.environment.settings, **settings)  # type: ignore[arg-type]
    layers = PlainLayers({LAYER: "/"})
    return OciHandler(replace(lab.environment, settings=options), layers)


def monitor_fds(of: Box) -> int:
    assert of.record.monitor is not None
    return len(os.listdir(f"/proc/{of.record.monitor.pid}/fd"))


async def test_all_clients_see_both_outputs_and_the_exit_code(lab: PodLab) -> None:
    async with box(lab, "sh", "-c", ECHO, stdin=True) as made:
        one, two = await attached(made), await attached(made, stdin=False)
        assert two.stdin is None
        await say(one, b"a\n")
        for session in (one, two):
            assert await until(session.stdout, b"a\n") == b"out:a\n"
            assert await until(session.stderr, b"a\n") == b"err:a\n"
        await one.close()
        three = await attached(made)
        await say(three, b"b\n")
        assert await until(two.stdout, b"b\n") == b"out:b\n"
        assert await until(two.stderr, b"b\n") == b"err:b\n"
        await made.handler.containers.signal(made.record, signal.SIGKILL)
        assert await finish(two) == (137, b"", b"")
        assert await finish(three) == (137, b"out:b\n", b"err:b\n")
        with pytest.raises(WrongState, match="ended"):
            await attached(made)


async def test_all_output_comes_before_the_end(lab: PodLab) -> None:
    script = "read go; head -c 3000000 /dev/zero; exit 5"
    async with box(lab, "sh", "-c", script, stdin=True) as made:
        session = await attached(made)
        await say(session, b"go\n")
        code, out, _err = await finish(session)
        assert (code, out.count(b"\0"), len(out)) == (5, 3000000, 3000000)


async def test_input_goes_in_whole_and_with_back_pressure(lab: PodLab) -> None:
    async with box(lab, "wc", "-c", stdin=True, stdin_once=True) as made:
        session = await attached(made)
        for _round in range(50):
            await say(session, b"x" * 100_001)
        assert session.stdin is not None
        await session.stdin.close()
        assert await finish(session) == (0, b"5000050\n", b"")


async def test_only_with_stdin_once_the_end_of_a_session_is_the_end_of_the_input(lab: PodLab) -> None:
    async with box(lab, "sh", "-c", ECHO, stdin=True) as made:
        first, watcher = await attached(made), await attached(made, stdin=False)
        assert first.stdin is not None
        await first.stdin.close()
        with pytest.raises(ConnectionError):
            await first.stdin.write(b"late\n")
        await first.close()
        second = await attached(made)
        await say(second, b"on\n")
        assert await until(watcher.stdout, b"on\n") == b"out:on\n"
        await second.close()
        await watcher.close()


async def test_a_watcher_that_goes_does_not_end_the_input_of_a_container_with_stdin_once(lab: PodLab) -> None:
    async with box(lab, "sh", "-c", ECHO, stdin=True, stdin_once=True) as made:
        watcher = await attached(made, stdin=False)
        await watcher.close()
        session = await attached(made)
        await say(session, b"a\n")
        assert await until(session.stdout, b"a\n") == b"out:a\n"
        watcher = await attached(made, stdin=False)
        await session.close()
        code, out, _err = await finish(watcher)
        assert (code, out) == (3, b"over\n")


async def test_a_slow_client_slows_neither_container_nor_others_and_gets_an_error(lab: PodLab) -> None:
    script = "read go; head -c 30000000 /dev/zero; echo; exec cat"
    async with box(lab, "sh", "-c", script, stdin=True) as made:
        slow, fast = await attached(made, stdin=False), await attached(made)
        await say(fast, b"go\n")
        got = await until(fast.stdout, b"\n")
        assert len(got) == 30_000_001
        beginning = await rest(slow.stdout)
        assert SESSION_BYTES - LONGEST_READ < len(beginning) <= SESSION_BYTES
        with pytest.raises(Exhausted, match="behind"):
            await slow.wait()
        await say(fast, b"fine\n")
        assert await until(fast.stdout, b"fine\n") == b"fine\n"
        await slow.close()
        await fast.close()


async def test_a_terminal_has_one_output_and_every_size_arrives(lab: PodLab) -> None:
    # two signals may find the same size: each is said once
    tell = 'now=$(busybox stty size); [ "$now" = "$said" ] || echo $now; said=$now'
    script = f"trap '{tell}' WINCH; trap 'exit 9' INT; echo ready; while true; do sleep 0.02; done"
    async with box(lab, "sh", "-c", script, stdin=True, tty=True) as made:
        await comes_true(lambda: "ready" in Path(made.record.log_path).read_text())
        session = await attached(made, tty=True)
        assert session.stderr is None
        # conmon before 2.2 loses all but the first of lines that it finds together
        for height in range(20, 30):
            session.resize(TerminalSize(80, height))
            await asyncio.sleep(0)
        session.resize(TerminalSize(132, 50))
        assert b"50 132\r\n" in await until(session.stdout, b"50 132\r\n")
        for height in range(11, 16):
            session.resize(TerminalSize(90, height))
            await until(session.stdout, b"%d 90\r\n" % height)
        await say(session, b"\x03")
        assert await finish(session) == (9, b"^C", b"")


async def test_it_works_for_the_next_daemon_too(monitored: OciLab) -> None:
    async with box(monitored, "sh", "-c", ECHO, stdin=True) as made:
        before = await attached(made)
        await say(before, b"one\n")
        await until(before.stdout, b"one\n")
        await before.close()
        wanted = AttachRequest(made.record.id, stdin=True, stdout=True, stderr=True)
        session = await restarted(monitored).streams.attach(made.record, wanted)
        await say(session, b"two\n")
        assert await until(session.stdout, b"two\n") == b"out:two\n"
        await session.close()


async def test_who_comes_later_gets_the_latest_output_first_without_gap_or_repetition(
    monitored: OciLab,
) -> None:
    # what stderr gets counts as output too, and conmon may take all of it at any moment: it is kept small
    script = "n=0; while read line; do n=$((n+1)); echo line $n; case $n in *00) printf part >&2; esac; done"
    async with box(monitored, "sh", "-c", script, stdin=True) as made:
        first = await attached(made)
        await say(first, b"\n" * 2000)
        await until(first.stdout, b"line 2000\n")
        handler = restarted(monitored, streaming=StreamingSettings(attach_replay=4096))
        wanted = AttachRequest(made.record.id, stdin=True, stdout=True)
        late = await handler.streams.attach(made.record, wanted)
        await say(late, b"\n" * 3)
        seen = (await until(late.stdout, b"line 2003\n")).decode().splitlines()
        numbers = [int(line.split()[1]) for line in seen]
        assert numbers == list(range(numbers[0], 2004))
        assert 390 < len(numbers) < 420
        await late.close()
        await first.close()


async def test_a_session_leaves_nothing_here_or_in_the_monitor(monitored: OciLab) -> None:
    async with box(monitored, "cat", stdin=True) as made:
        session = await attached(made)
        await say(session, b"x\n")
        await until(session.stdout, b"x\n")
        ours, theirs, tasks = descriptors(), monitor_fds(made), len(asyncio.all_tasks())
        for _round in range(30):
            again = await attached(made)
            await again.close()
            await again.close()
        assert (descriptors(), monitor_fds(made), len(asyncio.all_tasks())) == (ours, theirs, tasks)
        await session.close()
        assert descriptors() == ours - 1


async def test_a_monitor_that_dies_ends_the_session(monitored: OciLab) -> None:
    async with box(monitored, "cat", stdin=True) as made:
        assert made.record.monitor is not None
        exits = asyncio.ensure_future(anext(monitored.handler.containers.exits()))
        session = await attached(made)
        await asyncio.sleep(0)
        os.kill(made.record.monitor.pid, signal.SIGKILL)
        assert await finish(session) == (255, b"", b"")
        assert (await exits).lost


async def test_a_cancelled_reader_loses_nothing(lab: PodLab) -> None:
    async with box(lab, "cat", stdin=True) as made:
        session = await attached(made)
        assert session.stdout is not None
        for number in range(5):
            reading = asyncio.ensure_future(session.stdout.read())
            await asyncio.sleep(0)
            reading.cancel()
            await say(session, b"%d\n" % number)
            await until(session.stdout, b"%d\n" % number)
        await session.close()


async def test_the_log_has_what_was_said_while_nobody_was_attached(lab: PodLab) -> None:
    async with box(lab, "cat", stdin=True) as made:
        session = await attached(made)
        await say(session, b"kept\n")
        await session.close()
        await comes_true(lambda: "kept" in Path(made.record.log_path).read_text())
