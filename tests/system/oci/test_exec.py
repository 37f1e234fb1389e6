"""Commands with streams at the handler's port: pipes and terminals, ends of all kinds, and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.host import adoption
from crib.host.strays import programs_with
from crib.model.container import ContainerSecurity
from crib.model.errors import Broken, WrongState
from crib.model.sandbox import NamespaceMode, NamespaceOptions, Resources
from crib.model.settings import HandlerSettings
from crib.model.streams import ExecProcess, TerminalSize
from tests.system.labs.oci_pods import cgroup_of, config, frozen, pod, running
from tests.system.labs.oci_setup import BOUND, PodLab, oci_lab
from tests.system.labs.oci_streams import Box, box, comes_true, descriptors, finish, rest, until
from tests.system.labs.shim_setup import pod_lab

pytestmark = [pytest.mark.root, pytest.mark.system]

MEGABYTE = 1 << 20


WRITES_NO_PID = """#!/bin/sh
for word in "$@"; do
    case "$word" in exec) setsid sleep 65432 & sleep 3600;; esac
done
exec {real} "$@"
"""
"""A runtime that has started a command, in a session of its own, and comes no further."""


@pytest.fixture(
    params=["crun", "runc", "shim of crun", pytest.param("shim of runc", marks=pytest.mark.nightly)]
)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[PodLab]:
    async with pod_lab(request.param) as made:
        yield made


@pytest.fixture
async def made(lab: PodLab) -> AsyncIterator[Box]:
    async with box(lab) as running_box:
        yield running_box


def pids(of: Box) -> list[int]:
    """Processes of the container, with those of its commands."""
    return list(of.lab.environment.cgroups.pids(cgroup_of(of.lab, of.record)))


def files_of_commands(of: Box) -> list[str]:
    """Of those that run, below the container's bundle."""
    found = os.walk(of.lab.paths.container(of.record.id))
    return [name for top, _, names in found for name in names if "rootfs" not in top and "exec-" in name]


async def test_input_goes_to_the_command_and_its_end_too(made: Box) -> None:
    session = await made.exec("sh", "-c", "cat; echo over >&2; exit 6", stdin=True)
    assert session.stdin is not None
    await session.stdin.write(b"one\n")
    assert await until(session.stdout, b"one\n") == b"one\n"
    await session.stdin.write(b"two")
    await session.stdin.close()
    await session.stdin.close()
    assert await finish(session) == (6, b"two", b"over\n")
    with pytest.raises(ConnectionError):
        await session.stdin.write(b"late")


async def test_what_was_not_asked_for_is_not_there(made: Box) -> None:
    script = "cat; echo out; echo err >&2; exit 2"
    session = await made.handler.streams.exec(made.record, ExecProcess(("sh", "-c", script), stderr=True))
    assert (session.stdin, session.stdout) == (None, None)
    assert await finish(session) == (2, b"", b"err\n")
    tty = await made.handler.streams.exec(
        made.record, ExecProcess(("sh", "-c", "yes | head -c 99999"), tty=True)
    )
    assert (tty.stdin, tty.stdout, tty.stderr) == (None, None, None)
    assert await finish(tty) == (0, b"", b"")


async def test_a_command_that_reads_no_more_is_told_to_who_writes(made: Box) -> None:
    session = await made.exec("sh", "-c", "exec <&-; echo closed; exec sleep 100", stdin=True)
    await until(session.stdout, b"closed\n")
    assert session.stdin is not None
    if made.lab.environment.facts.kind == "oci":  # a shim holds the reading end itself, to the command's end
        with pytest.raises(ConnectionError):
            await session.stdin.write(b"x")
    await session.kill()
    assert await finish(session) == (137, b"", b"")


async def test_a_writer_waits_for_the_command_and_not_beyond_its_end(made: Box) -> None:
    session = await made.exec("sleep", "100", stdin=True)
    assert session.stdin is not None
    writing = asyncio.ensure_future(session.stdin.write(b"x" * (4 * MEGABYTE)))
    _done, waiting = await asyncio.wait([writing], timeout=0.2)
    assert waiting
    await session.kill()
    with pytest.raises(ConnectionError):
        await writing
    assert (await finish(session))[0] == 137


@pytest.mark.parametrize("megabytes", [8])
async def test_binary_data_comes_back_as_it_was(made: Box, megabytes: int) -> None:
    data = random.Random(1).randbytes(megabytes * MEGABYTE)
    session = await made.exec("cat", stdin=True)

    async def feed() -> None:
        assert session.stdin is not None
        for start in range(0, len(data), 99_991):
            await session.stdin.write(data[start : start + 99_991])
        await session.stdin.close()

    _fed, (code, out, err) = await asyncio.gather(feed(), finish(session))
    assert (code, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("tty", [False, True])
async def test_all_output_comes_before_the_code_also_to_a_slow_reader(made: Box, tty: bool) -> None:
    script = "head -c 400000 /dev/zero; printf last; exit 7"
    session = await made.exec("sh", "-c", script, tty=tty)
    assert session.stdout is not None
    first = await session.stdout.read()
    await asyncio.sleep(0.05)  # this reader is slow; the test holds for any time
    code, out, _err = await finish(session)
    assert (code, len(first + out)) == (7, 400004)
    assert out.endswith(b"last")


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("background", ["exec sleep 300", "while true; do echo more; done"])
async def test_what_is_left_in_the_background_does_not_hold_the_session(
    made: Box, tty: bool, background: str
) -> None:
    script = f"(trap '' HUP; {background}) & echo started; exit 4"
    async with asyncio.timeout(BOUND):
        code, out, _err = await finish(await made.exec("sh", "-c", script, tty=tty))
    assert code == 4
    assert b"started" in out


async def test_nor_in_a_pod_that_shares_the_pids_of_the_host(lab: PodLab) -> None:
    security = ContainerSecurity(namespaces=NamespaceOptions(pid=NamespaceMode.NODE))
    wanted = config("sleep", "1000", security=security)
    async with pod(lab, pid=NamespaceMode.NODE) as sandbox, running(lab, sandbox, wanted) as record:
        async with asyncio.timeout(BOUND):
            session = await Box(lab, sandbox, record).exec("sh", "-c", "sleep 300 & echo started")
            assert await finish(session) == (0, b"started\n", b"")


@pytest.mark.parametrize("contained", [False, True])
async def test_a_command_is_ended_with_all_of_it_if_it_is_contained(made: Box, contained: bool) -> None:
    # ready is said by the child: until it runs its own program, ps shows its parent's words once more
    script = "setsid sh -c 'echo ready; exec sleep 321' & exec sleep 321"
    session = await made.exec("sh", "-c", script, contained=contained)
    await until(session.stdout, b"ready\n")
    await session.kill()
    assert (await finish(session))[0] == 137
    assert (await made.run("ps")).count("sleep 321") == (0 if contained else 1)
    await comes_true(lambda: files_of_commands(made) == [])


async def test_a_command_is_as_likely_to_be_killed_for_memory_as_its_container(lab: PodLab) -> None:
    async with box(lab, resources=Resources(oom_score_adj=500)) as made:
        script = "read go; cat /proc/self/oom_score_adj"
        session = await made.exec("sh", "-c", script, stdin=True)
        assert session.stdin is not None
        await session.stdin.write(b"go\n")
        assert await finish(session) == (0, b"500\n", b"")


async def test_a_closed_session_holds_nothing_and_the_command_goes_on(made: Box) -> None:
    before, tasks = descriptors(), len(asyncio.all_tasks())
    script = "trap '' PIPE; cat; echo lost; touch /tmp/done; exit 3"
    session = await made.exec("sh", "-c", script, stdin=True)
    await session.close()
    await session.close()
    assert await session.wait() == 3
    assert "done" in await made.run("ls", "/tmp")
    await comes_true(lambda: descriptors() <= before and len(asyncio.all_tasks()) <= tasks)


async def test_a_terminal_is_one_that_people_know(made: Box) -> None:
    # a shim is told of a size by a call, and of input by a fifo: either may come first
    sized = 'until [ "$(busybox stty size 2>/dev/null)" = "50 132" ]; do :; done'
    script = f"read go; echo $TERM; {sized}; busybox stty size; busybox tty; printf 'one\\ntwo\\n'; exec cat"
    session = await made.exec("sh", "-c", script, tty=True, stdin=True)
    assert session.stderr is None
    assert session.stdin is not None
    session.resize(TerminalSize(132, 50))
    await session.stdin.write(b"go\n")
    seen = await until(session.stdout, b"two\r\n")
    assert seen == b"go\r\nxterm\r\n50 132\r\n/dev/pts/0\r\none\r\ntwo\r\n"
    await session.stdin.write(b"hey\n")
    await until(session.stdout, b"hey\r\nhey\r\n")
    await session.stdin.write(b"\x03")
    assert await finish(session) == (130, b"^C", b"")
    session.resize(TerminalSize(1, 1))


async def test_the_end_of_a_terminal_s_input_sends_nothing_and_its_close_hangs_up(made: Box) -> None:
    session = await made.exec("sh", "-c", "echo ready; exec sleep 1000", tty=True, stdin=True)
    await until(session.stdout, b"ready")
    assert session.stdin is not None
    await session.stdin.close()
    waiting = asyncio.ensure_future(session.wait())
    _done, running_still = await asyncio.wait([waiting], timeout=0.2)
    assert running_still
    await session.close()
    assert await waiting == 128 + signal.SIGHUP


@pytest.mark.parametrize("tty", [False, True])
async def test_what_cannot_be_run_is_an_error_in_the_runtimes_words(made: Box, tty: bool) -> None:
    before = descriptors()
    with pytest.raises(Broken, match="nosuch"):
        await made.exec("nosuch", tty=tty)
    with pytest.raises(Broken):
        await made.exec("/etc", tty=tty, contained=True)
    await made.run("sh", "-c", "echo '#!/no/interpreter' > /tmp/refused; busybox chmod 755 /tmp/refused")
    # crun waits until the program has been started and reports it; runc, and newer versions of crun, are gone
    # by then: their words are all that the command writes
    try:
        code, out, err = await finish(await made.exec("/tmp/refused", tty=tty))
    except Broken as error:
        words, code = str(error).encode(), 1
    else:
        words = out + err
    assert code != 0
    assert b"no such file" in words.lower()
    await comes_true(lambda: descriptors() == before)
    await comes_true(lambda: files_of_commands(made) == [])


async def test_a_config_that_cannot_be_read_is_what_a_command_is_refused_for(made: Box) -> None:
    config = Path(made.lab.paths.container(made.record.id), "config.json")
    whole = config.read_bytes()
    config.write_bytes(whole[:100])
    try:
        with pytest.raises(Broken, match=r"config\.json cannot be read"):
            await made.exec("true")
    finally:
        config.write_bytes(whole)


async def test_nothing_is_run_in_what_is_paused_or_has_ended(made: Box) -> None:
    with frozen(made.lab, made.record), pytest.raises(WrongState, match="paused"):
        await made.exec("true")
    await made.handler.containers.signal(made.record, signal.SIGKILL, everyone=True)
    await comes_true(lambda: pids(made) == [])
    with pytest.raises(WrongState):
        await made.exec("true")


@pytest.mark.parametrize("tty", [False, True])
async def test_who_is_cancelled_while_it_begins_leaves_nothing_that_runs(made: Box, tty: bool) -> None:
    await finish(await made.exec("true"))
    before, tasks = descriptors(), len(asyncio.all_tasks())
    for turns in (0, 1, 2, 3, 5, 8, 13, 21):
        opening = asyncio.ensure_future(made.exec("sleep", "654", tty=tty, contained=turns % 2 == 0))
        for _turn in range(turns):
            await asyncio.sleep(0.0005)  # to cancel at many points of the way, whichever they are
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            session = await opening
            await session.kill()
            await session.close()
    while "sleep 654" in await made.run("ps"):  # a shim that has just started it is told then
        pass
    await comes_true(lambda: descriptors() <= before and len(asyncio.all_tasks()) <= tasks)


async def test_a_command_whose_runtime_is_killed_before_it_wrote_the_pid_is_killed_too(
    tmp_path: Path,
) -> None:
    program = tmp_path / "crun"
    program.write_text(WRITES_NO_PID.format(real=shutil.which("crun")))
    program.chmod(0o755)
    async with oci_lab("crun", HandlerSettings(path=str(program))) as lab, box(lab) as made:
        opening = asyncio.ensure_future(made.exec("true"))
        await comes_true(lambda: programs_with("65432") != [])
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        await comes_true(lambda: programs_with("65432") == [])


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.nightly)])
async def test_commands_leave_no_descriptor_task_process_or_file(lab: PodLab, count: int) -> None:
    if count > 200 and lab.environment.facts.name == "runc":
        pytest.skip("the runtime makes no difference to what we hold, but takes three times as long")
    async with pod(lab) as sandbox, running(lab, sandbox, config("sleep", "100000")) as record:
        made = Box(lab, sandbox, record)

        async def command(number: int) -> None:
            tty, contained = number % 5 == 0, number % 3 == 0
            session = await made.exec("cat", tty=tty, stdin=True, contained=contained)
            assert session.stdin is not None
            await session.stdin.write(b"x\n")
            await until(session.stdout, b"x")
            if tty:
                await session.stdin.write(b"\x04")
            await session.stdin.close()
            assert (await finish(session))[0] == 0

        async def some(numbers: range) -> None:
            for number in numbers:
                await command(number)

        await some(range(10))
        fds, tasks, files = descriptors(), len(asyncio.all_tasks()), tree(lab.paths.state)
        await asyncio.gather(*(some(range(first, count, 4)) for first in range(4)))
        await comes_true(lambda: descriptors() <= fds and len(asyncio.all_tasks()) <= tasks)
        await comes_true(lambda: tree(lab.paths.state) <= files)
        assert len(pids(made)) == 1
        assert not adoption._kept
        assert not adoption._awaited
        assert not adoption._expecting


def tree(path: str) -> set[str]:
    return {f"{top}/{name}" for top, directories, files in os.walk(path) for name in (*directories, *files)}


async def test_a_hundred_sessions_at_once_each_get_their_own(made: Box) -> None:
    number = 100 if made.lab.environment.facts.name == "crun" else 20
    sessions = [await made.exec("cat", stdin=True) for _number in range(number)]
    for index, session in enumerate(sessions):
        assert session.stdin is not None
        await session.stdin.write(b"%d\n" % index)
        await session.stdin.close()
    ended = await asyncio.gather(*map(finish, sessions))
    assert ended == [(0, b"%d\n" % index, b"") for index in range(number)]
    assert await rest(None) == b""
