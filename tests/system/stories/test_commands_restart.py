"""Commands in containers when cribd ends under them: who is told what, and what is left of them then."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from crib.client import streams
from crib.client.errors import ClientError, RuntimeFailure
from crib.client.streams import StreamOptions
from crib.daemon import GRACE
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, ExecOutcome, running_cribd, until
from tests.system.labs.hanging_programs import Gate
from tests.system.labs.leftovers import processes_of
from tests.system.labs.stream_lab import box_in, finish, seen

pytestmark = [pytest.mark.root, pytest.mark.system]

ALL = {"4001", "4002", "4003", "4004", "4005", "4006"}
"""Of `all_kinds`: two in each ExecSync, one on a terminal, and one on pipes."""
SLEEPS = re.compile(r"sleep (40\d\d)")


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    """Each story has its own, as it ends it."""
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


def sleepers(cribd: Cribd) -> list[tuple[str, int]]:
    """The sleeps that commands of this story are: the number that each sleeps, and its pid."""
    found = ((SLEEPS.search(words), pid) for pid, words in processes_of(cribd.root, cribd.cgroup))
    return [(match[1], pid) for match, pid in found if match]


def sleeping(cribd: Cribd) -> set[str]:
    """Their numbers."""
    return {number for number, _ in sleepers(cribd)}


async def end_sleepers(cribd: Cribd) -> None:
    for _, pid in sleepers(cribd):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not sleepers(cribd))


async def told(call: asyncio.Future[Any]) -> ClientError:
    """The failure that a caller got."""
    with pytest.raises(ClientError) as caught:
        await asyncio.wait_for(call, 60)
    return caught.value


@asynccontextmanager
async def all_kinds(cri: Cri, box: str) -> AsyncIterator[list[asyncio.Task[ExecOutcome]]]:
    """Commands of every kind under way, by the numbers that they sleep; the calls of ExecSync."""
    scripts = ("busybox setsid sleep 4001 & exec sleep 4002", "sleep 4003 & exec sleep 4004")
    async with AsyncExitStack() as stack:
        calls: list[asyncio.Task[ExecOutcome]] = [
            asyncio.ensure_future(cri.execute(box, "sh", "-c", script, timeout=timeout))
            for script, timeout in zip(scripts, (0, 1000), strict=True)
        ]
        for tty, number in ((True, 4005), (False, 4006)):
            script = f"echo ready; exec sleep {number}"
            opened = streams.exec(cri.connection, box, ["sh", "-c", script], StreamOptions(tty, stdin=True))
            await seen((await stack.enter_async_context(opened)).stdout, b"ready")
        attached = streams.attach(cri.connection, box, StreamOptions())
        await stack.enter_async_context(attached)
        await until(lambda: sleeping(cri.cribd) >= ALL)
        yield calls


async def test_of_a_killed_daemons_commands_those_that_have_no_reader_are_ended_by_the_next(
    cri: Cri, cribd: Cribd
) -> None:
    _, box = await box_in(cri, "box", "sh", "-c", "while :; do echo tick; sleep 0.02; done")
    before = cribd.leftovers()
    async with all_kinds(cri, box) as calls:
        cribd.kill()
        assert [(await told(call)).code for call in calls] == ["UNAVAILABLE"] * 2
    await until(lambda: "4005" not in sleeping(cribd))  # its terminal was hung up
    assert sleeping(cribd) == {"4001", "4002", "4003", "4004", "4006"}
    cribd.start()
    await until(lambda: sleeping(cribd) == {"4006"})
    await until(lambda: "2 commands of an earlier daemon" in cribd.log())
    async with cribd.connect() as again:
        assert (await again.status(box)).state == pb.CONTAINER_RUNNING
        await end_sleepers(cribd)
    for kind in ("files", "cgroups"):
        await until(lambda kind=kind: getattr(cribd.leftovers(), kind) == getattr(before, kind))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """In front of the runtime's exec."""
    made = Gate(tmp_path, "crun", " exec ")
    yield made
    made.end()


@pytest.fixture
def slow_cribd(gate: Gate) -> Iterator[Cribd]:
    handler = f'default_handler = "slow"\n[handlers.slow]\npath = "{gate.program}"\n'
    with running_cribd(extra=handler) as daemon:
        yield daemon


async def test_a_runtime_that_a_killed_daemon_left_at_work_is_ended_by_the_next(
    slow_cribd: Cribd, gate: Gate
) -> None:
    cribd = slow_cribd
    async with cribd.story() as cri:
        _, box = await box_in(cri, "box")
        before = cribd.leftovers()
        gate.close()
        async with asyncio.TaskGroup() as group:
            options = StreamOptions(tty=True, stdin=True)
            works = (cri.execute(box, "true"), opened(cri, box, options))
            calls = [group.create_task(told(asyncio.ensure_future(work))) for work in works]
            await until(lambda: len(runtimes_at_work(cribd)) == 2)
            cribd.kill()
        assert calls[0].result().code == "UNAVAILABLE"
        gate.forget()
        assert len(runtimes_at_work(cribd)) == 2
        cribd.start()
        await until(lambda: not runtimes_at_work(cribd))
        cribd.settle(before)
        async with cribd.connect() as again:
            assert await again.sh(box, "echo fine") == "fine"


async def opened(cri: Cri, box: str, options: StreamOptions) -> None:
    """A stream to its end."""
    async with streams.exec(cri.connection, box, ["true"], options) as session:
        await finish(session)


def runtimes_at_work(cribd: Cribd) -> set[str]:
    """Files of the commands whose runtime is at work."""
    wanted = re.compile(rb"\0--process\0(" + os.fsencode(cribd.state) + rb"/containers/[^\0]+)")
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.update(wanted.findall(Path(f"/proc/{pid}/cmdline").read_bytes()))
    return {os.fsdecode(path) for path in found}


async def test_a_daemon_that_stops_lets_commands_end_and_says_what_becomes_of_streams(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    _, box = await box_in(cri, "box", mounts=[pb.Mount(container_path="/told", host_path=str(tmp_path))])
    script = "touch /told/under-way; until [ -e /told/go ]; do sleep 0.01; done; echo done; exit 3"
    running = asyncio.ensure_future(cri.execute(box, "sh", "-c", script))
    await until((tmp_path / "under-way").exists)
    late = asyncio.ensure_future(cri.execute(box, "sh", "-c", "exec sleep 4011", timeout=1))
    async with AsyncExitStack() as stack:
        sessions = []
        for tty in (True, False):
            options = StreamOptions(tty, stdin=True)
            command = ["sh", "-c", "echo ready; trap '' HUP; exec sleep 4010"]
            session = await stack.enter_async_context(streams.exec(cri.connection, box, command, options))
            await seen(session.stdout, b"ready")
            sessions.append(session)
        sessions.append(await stack.enter_async_context(streams.attach(cri.connection, box, StreamOptions())))
        stopping = asyncio.ensure_future(asyncio.to_thread(cribd.stop))
        await until(lambda: "stopping" in cribd.log())
        (tmp_path / "go").touch()
        assert (await told(late)).code == "DEADLINE_EXCEEDED"
        assert "4011" not in sleeping(cribd)
        outcome = await running
        assert (outcome.code, outcome.out) == (3, "done\n")
        for session, fate in zip(sessions, ("terminal", "keeps running", "keeps running"), strict=True):
            with pytest.raises(RuntimeFailure, match=f"crib is stopping: .*{fate}"):
                await finish(session)
        await stopping
    await end_sleepers(cribd)


async def test_a_daemon_killed_with_its_monitors_shows_containers_as_lost_and_leaves_nothing_running(
    cri: Cri, cribd: Cribd
) -> None:
    pod, box = await box_in(cri, "box")
    created = await cri.create(pod, "sleep", "100", name="created")
    shared = await cri.run_pod("shared", namespaces=pb.NamespaceOption(pid=pb.POD))
    other = await cri.run_container(
        shared, "sh", "-c", "sleep 4020 & exec sleep 4021", namespaces=pb.NamespaceOption(pid=pb.POD)
    )
    ended_before = await cri.run_container(pod, "sh", "-c", "exit 7", name="ended")
    await cri.exited(ended_before)
    async with all_kinds(cri, box):
        found = processes_of(cribd.root, cribd.cgroup)
        monitors = [pid for pid, words in found if words.split()[0].endswith("conmon")]
        assert len(monitors) >= 3
        cribd.kill()
        for pid in monitors:
            with suppress(ProcessLookupError):  # that of the one which has ended
                os.kill(pid, signal.SIGKILL)
    cribd.start()
    await until(lambda: not sleeping(cribd))
    async with cribd.connect() as again:
        for container in (box, created, other):
            status = await again.status(container)
            assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 255, "Unknown")
            assert "monitor" in status.message
        assert (await again.status(ended_before)).exit_code == 7
        assert await again.run_container(pod, "sleep", "100", name="next")


@pytest.fixture
def strict_cribd() -> Iterator[Cribd]:
    with running_cribd(extra="[streaming]\nkill_abandoned = true") as daemon:
        yield daemon


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_where_the_settings_say_so_commands_of_clients_are_ended_too(
    strict_cribd: Cribd, way: str
) -> None:
    cribd = strict_cribd
    async with cribd.story() as cri:
        _, box = await box_in(cri, "box")
        async with all_kinds(cri, box) as calls:
            await asyncio.to_thread(cribd.kill if way == "kill" else cribd.stop)
            for call in calls:
                assert (await told(call)).code == "UNAVAILABLE"
        if way == "stop":
            assert sleeping(cribd) == set()
        cribd.start()
        await until(lambda: not sleeping(cribd))


@pytest.mark.nightly
async def test_a_command_without_end_is_ended_before_a_daemon_that_stops(cri: Cri, cribd: Cribd) -> None:
    _, box = await box_in(cri, "box")
    async with all_kinds(cri, box) as calls:
        began = time.monotonic()
        await asyncio.to_thread(cribd.stop)
        assert time.monotonic() - began < GRACE + 5
        for call in calls:
            failure = await told(call)
            assert failure.code == "UNAVAILABLE"
            assert re.search(rf"crib is stopping: exec of 'sh' in container {box} was ended", failure.message)
    assert sleeping(cribd) == {"4006"}
    cribd.start()
    assert "earlier daemon" not in cribd.log()
    await end_sleepers(cribd)
