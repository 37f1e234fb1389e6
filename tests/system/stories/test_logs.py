"""Logs over rotations, a client's and crib's own: every line comes once, whole, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from crib.client import logs
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.conmon import CONTROL_FIFO
from crib.wire.crilog import LineJoiner
from tests.system.labs.daemon import Cribd, running_cribd, until
from tests.system.labs.leftovers import processes_of
from tests.system.labs.stream_lab import BOUND, crib

pytestmark = [pytest.mark.root, pytest.mark.system]

SIZE, FILES = 64 << 10, 3
LONG = 20000
"""Bytes of a line: three entries of the log."""
COUNTER = "i=0; until [ -e /stop ]; do echo $i; i=$((i+1)); sleep 0.01; done"
WRITER = (
    f"x=$(head -c {LONG} /dev/zero | tr '\\0' x); i=0; until [ -e /stop ]; do"
    " echo $i $x; echo $i short >&2; i=$((i+1)); sleep 0.01; done"
)


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra=f"log_size_max = {SIZE}\nlog_files = {FILES}") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def plain() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


def assert_whole(lines: list[bytes], errors: list[bytes]) -> None:
    assert len(lines) > 20
    assert [line.split()[0] for line in lines] == [b"%d" % number for number in range(len(lines))]
    assert {line.split(b" ")[1] for line in lines} == {b"x" * LONG}
    assert errors == [b"%d short" % number for number in range(len(errors))]


async def test_a_client_that_rotates_again_and_again_loses_and_merges_no_line(plain: Cribd) -> None:
    async with plain.story() as cri:
        box = await cri.run_container(await cri.run_pod("long"), "sh", "-c", WRITER)
        path = plain.logs / "long" / "box.log"
        for number in range(10):
            await until(lambda: path.exists() and path.stat().st_size > 50000, BOUND)
            path.rename(f"{path}.{number}")
            await cri.call(cri.runtime.ReopenContainerLog, pb.ReopenContainerLogRequest(container_id=box))
        await cri.execute(box, "touch", "/stop")
        await cri.exited(box, BOUND)
        joiner, found = LineJoiner(), {"stdout": list[bytes](), "stderr": list[bytes]()}
        for file in [*(Path(f"{path}.{number}") for number in range(10)), path]:
            for line in [*joiner.receive(file.read_bytes()), *joiner.next_file()]:
                found[line.stream].append(line.content)
        assert not list(joiner.finish())
        assert_whole(found["stdout"], found["stderr"])


async def test_crib_keeps_a_log_within_its_bound_and_a_follower_gets_every_line(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        box = await cri.run_container(await cri.run_pod("bound"), "sh", "-c", WRITER)
        path = cribd.logs / "bound" / "box.log"
        ended, found = asyncio.Event(), {"stdout": list[bytes](), "stderr": list[bytes]()}

        async def follow() -> None:
            async for line in logs.follow(str(path), ended=ended.is_set):
                found[line.stream].append(line.content)

        async with asyncio.timeout(2 * BOUND), asyncio.TaskGroup() as group:
            group.create_task(follow())
            seen: set[str] = set()
            while len(seen) < FILES + 2:
                await asyncio.sleep(0.05)  # the files tell nobody
                now = {file.name for file in path.parent.iterdir()}
                seen |= now
                assert len(now) <= FILES + 1  # one more while it is at it
            await cri.execute(box, "touch", "/stop")
            await cri.exited(box, BOUND)
            ended.set()
        assert len(list(path.parent.iterdir())) <= FILES
        assert_whole(found["stdout"], found["stderr"])
        with contextlib.suppress(StopIteration):  # it may begin in the file before
            first = next(line for line in logs.read(str(path)) if line.stream == "stdout")
            assert len(first.content) > LONG
        assert "Traceback" not in cribd.log()


async def test_a_short_log_is_left_alone_and_a_container_without_one_too(cribd: Cribd) -> None:
    async with cribd.story() as cri:
        pod = await cri.run_pod("short")
        await cri.run_container(pod, "sh", "-c", "echo hello; exec sleep 1000")
        await cri.run_container(pod, "sh", "-c", "yes", name="mute", log_path="")
        big = await cri.run_container(pod, "sh", "-c", WRITER, name="big")
        directory = cribd.logs / "short"
        await until(lambda: len(list(directory.glob("big.log.*"))) > 1, BOUND)
        assert [file.name for file in directory.glob("box*")] == ["box.log"]
        await cri.stop_container(big)


@pytest.fixture
def killed() -> Iterator[Cribd]:
    """A daemon for a story that kills it."""
    with running_cribd(extra=f"log_size_max = {SIZE}\nlog_files = {FILES}") as daemon:
        yield daemon


async def test_a_follower_gets_every_line_over_a_kill_and_an_end_for_a_container_that_lost_its_monitor(
    killed: Cribd,
) -> None:
    async with killed.story() as cri:
        pod = await cri.run_pod("followed")
        boxes = {
            name: await cri.run_container(pod, "sh", "-c", COUNTER, name=name) for name in ("lives", "loses")
        }
        async with AsyncExitStack() as stack:
            clients = {
                name: await stack.enter_async_context(crib(killed, "logs", "-f", "followed", "-c", name))
                for name in boxes
            }
            for client in clients.values():
                await client.seen(b"\n3\n")
            monitor = monitor_of(killed, boxes["loses"])
            killed.kill()
            os.kill(monitor, signal.SIGKILL)
            seen = await clients["lives"].seen(b"0\n")  # without a daemon
            await asyncio.to_thread(killed.start)
            async with killed.connect() as again:
                assert (await again.status(boxes["loses"])).reason == "Unknown"
                code, rest = await clients["loses"].end()
                assert code == 0
                await again.execute(boxes["lives"], "touch", "/stop")
                code, rest = await clients["lives"].end()
                assert code == 0
        lines = (b"0\n1\n2\n3\n" + seen + rest).split()
        assert lines == [b"%d" % number for number in range(len(lines))]


async def test_a_rotation_that_a_kill_cuts_off_is_finished_by_the_next_start_and_no_line_is_lost(
    killed: Cribd,
) -> None:
    """The monitor is stopped with a word unread: cribd has named the log, and waits to tell its own."""
    async with killed.story() as cri:
        waits = "echo first; until [ -e /stop ]; do sleep 0.05; done; echo last"
        box = await cri.run_container(await cri.run_pod("cut"), "sh", "-c", waits)
        path, monitor = killed.logs / "cut" / "box.log", monitor_of(killed, box)
        await until(lambda: b"first" in path.read_bytes())
        os.kill(monitor, signal.SIGSTOP)
        try:
            (killed.state / "containers" / box / CONTROL_FIFO).write_bytes(b"9 0 0\n")
            with path.open("ab") as log:
                log.write(b"2026-01-02T03:04:05.678901234Z stdout F %s\n" % (b"x" * SIZE))
            (aside,) = await until(lambda: list(path.parent.glob("box.log.*")))
            killed.kill()
        finally:
            os.kill(monitor, signal.SIGCONT)
        await asyncio.to_thread(killed.start)
        await until(lambda: path.exists() and not path.samefile(aside))
        await cri.execute(box, "touch", "/stop")
        await cri.exited(box)
        assert [len(line.content) for line in logs.read(str(aside))] == [len("first"), SIZE]
        assert [line.content for line in logs.read(str(path))] == [b"last"]
        assert set(path.parent.iterdir()) == {path, aside}


def monitor_of(cribd: Cribd, box: str) -> int:
    found = processes_of(cribd.root, cribd.cgroup)
    return next(pid for pid, words in found if "conmon" in words and box[:20] in words)
