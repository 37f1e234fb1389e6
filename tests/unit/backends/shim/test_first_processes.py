"""What containers write reaches their logs, whatever happens to the daemon, the log or who is attached."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.shim import first_processes
from crib.backends.shim import outputs as outputs_module
from crib.backends.shim.attach import AttachedClients
from crib.backends.shim.chunks import Chunk
from crib.backends.shim.fifo_ends import open_output_again
from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.outputs import TURNS
from crib.backends.streams import log_files
from crib.host.threads import Overdue
from crib.model.container import ContainerRecord
from crib.model.errors import CribError, InvalidRequest, WrongState
from crib.model.settings import Settings, StreamingSettings
from crib.model.streams import AttachRequest, TerminalSize
from tests.system.labs.oci_streams import comes_true
from tests.unit.backends.shim.fifo_lab import BOUND, Ends, FifoLab, lines, write_all


@pytest.fixture
def lab(tmp_path: Path) -> FifoLab:
    return FifoLab(tmp_path)


async def drained(first: FirstProcesses, record: ContainerRecord) -> None:
    async with asyncio.timeout(BOUND):
        while (
            outputs := first.outputs(record.id)
        ) is not None and not outputs.has_ended:  # a drain has a bound of its own, which may be too short
            await first.drain(record.id)


def numbered(begin: int, end: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(begin, end))


async def test_both_streams_are_logged_in_order_to_their_end(lab: FifoLab) -> None:
    async with lab.daemon() as first:
        record = lab.record()
        ends = Ends.open(await first.prepare(record))
        await asyncio.gather(
            write_all(ends.stdout, numbered(0, 20_000)), write_all(ends.stderr, numbered(5, 3000))
        )
        await write_all(ends.stdout, b"no newline")
        ends.close()
        await drained(first, record)
        assert lines(record.log_path, "stdout") == [*numbered(0, 20_000).split(b"\n")[:-1], b"no newline"]
        assert lines(record.log_path, "stderr") == numbered(5, 3000).split(b"\n")[:-1]
        assert Path(record.log_path).stat().st_mode & 0o777 == 0o640
        await first.release(record.id)


async def test_a_container_without_a_log_never_waits_for_a_reader(lab: FifoLab) -> None:
    async with lab.daemon() as first:
        record = replace(lab.record(), log_path="")
        ends = Ends.open(await first.prepare(record))
        await write_all(ends.stdout, numbered(0, 50_000))
        ends.close()
        await drained(first, record)
        assert not any((lab.top / "logs").iterdir())


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
async def test_a_log_that_is_no_file_is_refused_and_nothing_stays_open(lab: FifoLab, kind: str) -> None:
    record = lab.record()
    match kind:
        case "fifo":
            os.mkfifo(record.log_path)
        case "directory":
            os.mkdir(record.log_path)
        case "link":
            os.symlink("/etc/passwd", record.log_path)
    async with lab.daemon() as first:
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(InvalidRequest, match="log_path") as caught:
            await first.prepare(record)
        assert caught.value.field == "log_path"
        assert set(os.listdir("/proc/self/fd")) == before


async def test_who_is_attached_sees_what_comes_from_then_on_and_the_end(lab: FifoLab) -> None:
    async with lab.daemon() as first:
        attachments = AttachedClients(first, lab.shim)
        record = lab.record(stdin=True)
        stdio = await first.prepare(record)
        ends = Ends.open(stdio)
        reader = os.open(stdio.stdin, os.O_RDONLY)
        await write_all(ends.stdout, b"before\n")
        await comes_true(lambda: lines(record.log_path) == [b"before"])
        wanted = AttachRequest(record.id, stdin=True, stdout=True, stderr=True)
        one = await attachments.attach(record, wanted, Settings())
        other = await attachments.attach(record, wanted, Settings())
        await write_all(ends.stdout, b"after\n")
        await write_all(ends.stderr, b"oh\n")
        for session in (one, other):
            assert session.stdout is not None
            assert session.stderr is not None
            async with asyncio.timeout(BOUND):
                assert await session.stdout.read() == b"after\n"
                assert await session.stderr.read() == b"oh\n"
        assert one.stdin is not None
        await one.stdin.write(b"asked\n")
        assert os.read(reader, 100) == b"asked\n"
        await one.close()
        assert lab.shim.told == [], "it is not the container's only input"
        ends.close()
        lab.shim.code = 3
        lab.shim.ended.set()
        async with asyncio.timeout(BOUND):
            assert await other.wait() == 3
        await other.close()
        with pytest.raises(WrongState, match="has ended"):
            await attachments.attach(record, wanted, Settings())
        os.close(reader)


async def test_a_replay_and_what_comes_next_are_one_text(lab: FifoLab) -> None:
    async with lab.daemon() as first:
        attachments = AttachedClients(first, lab.shim)
        settings = Settings(streaming=StreamingSettings(attach_replay=1 << 20))
        record = lab.record()
        ends = Ends.open(await first.prepare(record))
        writing = asyncio.ensure_future(write_all(ends.stdout, numbered(0, 30_000)))
        session = await attachments.attach(record, AttachRequest(record.id, stdout=True), settings)
        assert session.stdout is not None
        received = b""
        async with asyncio.timeout(BOUND):
            while not received.endswith(b"line 29999\n"):
                received += await session.stdout.read()
        await writing
        begin = int(received.split(b"\n", 1)[0].split()[1])
        assert received == numbered(begin, 30_000)
        await session.close()
        ends.close()
        await drained(first, record)


async def test_with_stdin_once_the_end_comes_also_when_the_daemon_did_not_live_to_see_it(
    lab: FifoLab,
) -> None:
    record = lab.record(stdin=True, stdin_once=True)
    async with lab.daemon() as first:
        stdio = await first.prepare(record)
        ends = Ends.open(stdio)
        reader = os.open(stdio.stdin, os.O_RDONLY | os.O_NONBLOCK)
        wanted = AttachRequest(record.id, stdin=True)
        session = await AttachedClients(first, lab.shim).attach(record, wanted, Settings())
        assert session.stdin is not None
        await session.stdin.write(b"x")
    async with lab.daemon() as first:
        await first.adopt(record)
        assert os.read(reader, 10) == b"x"
        await comes_true(lambda: lab.shim.told == ["close_io"])
        assert os.read(reader, 10) == b""
    os.close(reader)
    ends.close()


async def test_a_terminal_gets_the_newest_of_many_sizes(lab: FifoLab) -> None:
    async with lab.daemon() as first:
        record = lab.record(tty=True)
        stdio = await first.prepare(record)
        assert stdio.stderr == ""
        writer = os.open(stdio.stdout, os.O_WRONLY)
        session = await AttachedClients(first, lab.shim).attach(
            record, AttachRequest(record.id, tty=True, stdout=True), Settings()
        )
        for width in range(50):
            session.resize(TerminalSize(width, 24))
        await comes_true(lambda: lab.shim.told[-1:] == ["49x24"])
        assert len(lab.shim.told) <= 3
        await session.close()
        os.close(writer)


async def test_the_next_daemon_goes_on_where_the_one_before_stopped(lab: FifoLab) -> None:
    record = lab.record()
    async with lab.daemon() as first:
        ends = Ends.open(await first.prepare(record))
        await write_all(ends.stdout, numbered(0, 5000))
    writing = asyncio.ensure_future(write_all(ends.stdout, numbered(5000, 60_000)))
    async with lab.daemon() as first:
        await first.adopt(record)
        await first.adopt(record)
        await writing
        ends.close()
        await drained(first, record)
    assert lines(record.log_path) == numbered(0, 60_000).split(b"\n")[:-1]


async def test_fifos_are_opened_once_and_all_or_none(lab: FifoLab, monkeypatch: pytest.MonkeyPatch) -> None:
    record = lab.record()
    async with lab.daemon() as first:
        stdio = await first.prepare(record)
        ends = Ends.open(stdio)
    before = times_open(stdio.stdout)

    def no_room(path: str) -> int:
        if path == stdio.stderr:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_output_again(path)

    async with lab.daemon() as first:
        with monkeypatch.context() as patched:
            patched.setattr(first_processes, "open_output_again", no_room)
            with pytest.raises(CribError, match="Too many open files"):
                await first.adopt(record)
        assert times_open(stdio.stdout) == before
        await asyncio.gather(first.adopt(record), first.adopt(record))
        assert times_open(stdio.stdout) == before + 1
    ends.close()


def times_open(path: str) -> int:
    """How many descriptors of this process are of that fifo."""
    inode, found = os.stat(path).st_ino, 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing
            found += os.stat(f"/proc/self/fd/{name}").st_ino == inode
    return found


async def test_a_container_that_ended_without_a_daemon_has_that_in_its_log_once(
    lab: FifoLab, caplog: pytest.LogCaptureFixture
) -> None:
    record = lab.record()
    async with lab.daemon() as first:
        ends = Ends.open(await first.prepare(record))
    ends.close()
    for _start in range(2):
        async with lab.daemon() as first:
            await first.adopt(record)
            await drained(first, record)
    (told,) = lines(record.log_path)
    assert told.startswith(
        b"crib: the container ended its stdout and stderr while cribd did not run: up to 64"
    )
    assert record.id in caplog.text


async def test_logs_that_take_no_write_hold_up_their_own_containers_only_and_lose_nothing(
    lab: FifoLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More of them than reads that may be under way at a time."""
    hung, answers = [lab.record(f"hung{number}") for number in range(TURNS + 2)], threading.Event()
    free, put_into = lab.record("free"), Chunk.put_into

    def put(chunk: Chunk, log: int) -> None:
        if chunk.container != free.id:
            answers.wait(BOUND)
        put_into(chunk, log)

    monkeypatch.setattr(Chunk, "put_into", put)
    monkeypatch.setattr(log_files, "PATIENCE", 0.05)
    try:
        async with lab.daemon() as first:
            stuck = [Ends.open(await first.prepare(record)) for record in hung]
            for ends in stuck:
                await write_all(ends.stdout, b"one\n")
            ends = Ends.open(await first.prepare(free))
            await write_all(ends.stdout, numbered(0, 30_000))
            await comes_true(lambda: lines(free.log_path) == numbered(0, 30_000).split(b"\n")[:-1])
            assert lines(hung[0].log_path) == []
            # The free one may have been slow for a moment too.
            await comes_true(
                lambda: all(f"container {record.id} waits for its log" in caplog.text for record in hung)
            )
            outputs = first.outputs(hung[0].id)
            assert outputs is not None
            monkeypatch.setattr(outputs_module, "LOG_TIME", 0.05)
            with pytest.raises(Overdue, match=f"reopening the log {hung[0].log_path}: takes more than"):
                async with outputs.at_rest("reopening"):
                    pass
            answers.set()
            for one, record in zip((*stuck, ends), (*hung, free), strict=True):
                one.close()
                await drained(first, record)
            assert [lines(record.log_path) for record in hung] == [[b"one"]] * len(hung)
    finally:
        answers.set()


async def test_what_a_full_disk_took_not_is_told_in_the_log_when_it_takes_more(
    lab: FifoLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_chunk: Chunk, _log: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with lab.daemon() as first:
        record = lab.record()
        ends = Ends.open(await first.prepare(record))
        with monkeypatch.context() as disk:
            disk.setattr(Chunk, "put_into", full)
            await write_all(ends.stdout, b"lost\n")
            await comes_true(lambda: f"output of container {record.id} is lost" in caplog.text)
        await write_all(ends.stdout, b"kept\n")
        ends.close()
        await drained(first, record)
    told, kept = lines(record.log_path)
    assert told == b"crib: 1 writes to this log were lost: No space left on device"
    assert kept == b"kept"
