"""The one door for programs: results, bounds, and what happens to children."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from crib.host import pidfds, processes, undying
from crib.host.capture import Capture
from crib.host.processes import ProgramFailed, RunOptions, SpawnOptions, ToolMissing, run, spawn


async def test_run_returns_both_outputs_and_the_exit_code() -> None:
    result = await run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert not result.timed_out
    assert not result.truncated
    assert result.duration > 0


async def test_programs_are_counted_by_name_and_too_many_names_as_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_started", Counter())
    monkeypatch.setattr(processes, "MAX_NAMES", 2)
    for name in ("one", "two", "three", "four", "one"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        await run([str(tmp_path / name)])
    with pytest.raises(ToolMissing):
        await run([str(tmp_path / "nothing")])
    assert processes.started() == {"one": 2, "two": 1, processes.OTHER: 2}


async def test_check_raises_with_the_words_of_the_program() -> None:
    result = await run(["sh", "-c", "echo no such luck >&2; exit 4"])
    with pytest.raises(ProgramFailed, match=r"sh failed \(exit code 4\): no such luck"):
        result.check()


async def test_input_longer_than_a_pipe_is_fed_whole() -> None:
    data = os.urandom(1 << 20)
    result = await run(["cat"], stdin=data, options=RunOptions(output_limit=2 << 20))
    assert result.stdout == data


async def test_a_program_that_does_not_read_its_input_is_no_error() -> None:
    result = await run(["true"], stdin=b"x" * (1 << 20))
    assert result.exit_code == 0


async def test_output_beyond_the_limit_is_dropped_and_flagged_and_the_program_still_ends() -> None:
    result = await run(["sh", "-c", "head -c 3000000 /dev/zero"], options=RunOptions(output_limit=1000))
    assert result.stdout == bytes(1000)
    assert result.truncated
    assert result.exit_code == 0


async def test_output_of_exactly_the_limit_is_not_flagged() -> None:
    result = await run(["printf", "12345"], options=RunOptions(output_limit=5))
    assert result.stdout == b"12345"
    assert not result.truncated


async def test_a_time_out_kills_the_whole_process_group() -> None:
    read_end, write_end = os.pipe()
    try:
        script = "sleep 1000 & echo $!; exec sleep 1000"
        for seconds in (0.3, 3, 30):  # until the time is enough for it to begin, on a busy machine too
            options = RunOptions(pass_fds=(write_end,))
            result = await run(["sh", "-c", script], timeout=seconds, options=options)
            assert result.timed_out
            assert result.exit_code == -signal.SIGKILL
            if result.stdout:
                break
        assert result.stdout.strip().isdigit()
        os.close(write_end)
        write_end = -1
        # The pipe ends only when every process that inherited it is gone.
        assert await asyncio.wait_for(asyncio.to_thread(os.read, read_end, 1), 10) == b""
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)


async def test_a_background_process_that_keeps_the_output_open_is_not_waited_for() -> None:
    result = await asyncio.wait_for(run(["sh", "-c", "sleep 1000 & echo $!"], timeout=60), 120)
    try:
        assert result.exit_code == 0
        assert not result.timed_out
    finally:
        os.kill(int(result.stdout), signal.SIGKILL)


async def test_a_background_process_that_writes_for_ever_cannot_hold_up_the_result() -> None:
    result = await run(["sh", "-c", "yes & echo $! >&2"], timeout=20, options=RunOptions(output_limit=100))
    os.kill(int(result.stderr), signal.SIGKILL)
    assert result.exit_code == 0


async def test_whoever_waits_hears_of_an_end_even_if_what_follows_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "not now")

    monkeypatch.setattr(undying, "forget", fail)
    assert await spawn(("true",)).wait(30.0) == 0
    assert [str(each) for each in failures] == ["[Errno 5] not now"]


async def test_cancelling_run_kills_the_program_and_waits_for_its_end() -> None:
    read_end, write_end = os.pipe()
    options = RunOptions(pass_fds=(write_end,))
    task = asyncio.ensure_future(run(["sleep", "1000"], options=options))
    await asyncio.sleep(0)
    os.close(write_end)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.set_blocking(read_end, False)
    assert os.read(read_end, 1) == b"", "nobody has the other end any more"
    os.close(read_end)


async def test_a_missing_program_is_named_with_what_to_do() -> None:
    with pytest.raises(ToolMissing) as caught:
        await run(["conmon-that-is-not-there"])
    assert caught.value.tool == "conmon-that-is-not-there"
    assert "PATH" in caught.value.hint
    assert ToolMissing("/usr/bin/conmon").hint == "install the package conmon"


async def test_a_missing_working_directory_is_not_taken_for_a_missing_program() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await run(["true"], options=RunOptions(cwd="/nowhere"))
    assert not isinstance(caught.value, ToolMissing)
    assert caught.value.filename == "/nowhere"


async def test_stderr_can_be_merged_and_the_environment_given() -> None:
    options = RunOptions(merge_stderr=True, cwd="/")
    result = await run(["sh", "-c", "echo $A >&2; pwd"], env={"A": "b", "PATH": "/bin"}, options=options)
    assert result.stdout == b"b\n/\n"
    assert result.stderr == b""


async def test_the_log_line_can_be_pasted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "crib.host.processes")
    await run(["printf", "%s", "a b"])
    assert any("printf %s 'a b': exit code 0" in record.getMessage() for record in caplog.records)


async def test_many_programs_at_once_lose_nothing() -> None:
    results = await asyncio.gather(*(run(["sh", "-c", f"echo {n}; exit {n}"]) for n in range(40)))
    assert [result.exit_code for result in results] == list(range(40))
    assert [int(result.stdout) for result in results] == list(range(40))


async def test_no_descriptor_is_left_open() -> None:
    await run(["true"], stdin=b"x")
    gc.collect()  # what others left open goes now, not while it is counted
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await run(["sh", "-c", "echo a; echo b >&2"], stdin=b"x")
    with pytest.raises(ToolMissing):
        await run(["not-there-at-all"], stdin=b"x")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_spawned_child_can_be_waited_for_by_many_and_signalled() -> None:
    child = spawn(["sleep", "1000"])
    assert child.exit_code is None
    with pytest.raises(TimeoutError):
        await child.wait(0.01)
    waiters = asyncio.gather(child.wait(), child.wait())
    assert child.signal(signal.SIGTERM)
    assert list(await waiters) == [-signal.SIGTERM, -signal.SIGTERM]
    assert child.exit_code == -signal.SIGTERM
    assert not child.signal(signal.SIGTERM)
    assert not child.kill()


async def test_a_spawned_child_gets_the_descriptors_it_is_given() -> None:
    read_end, write_end = os.pipe()
    child = spawn(["sh", "-c", f"echo hello >/proc/self/fd/{write_end}"], SpawnOptions(pass_fds=(write_end,)))
    os.close(write_end)
    assert await child.wait(10) == 0
    assert os.read(read_end, 100) == b"hello\n"
    os.close(read_end)


async def test_a_pidfd_tells_the_end_to_all_who_wait() -> None:
    child = spawn(["sleep", "1000"])
    pidfd = pidfds.open_pidfd(child.pid)
    try:
        assert not await pidfds.wait_pidfd(pidfd, 0.01)
        waiting = asyncio.gather(pidfds.wait_pidfd(pidfd, 10), pidfds.wait_pidfd(pidfd, 10))
        await asyncio.sleep(0)
        child.kill()
        assert list(await waiting) == [True, True]
    finally:
        os.close(pidfd)
    await child.wait(10)
    with pytest.raises(ProcessLookupError):
        pidfds.open_pidfd(child.pid)


async def test_the_start_time_names_a_process() -> None:
    child = spawn(["sleep", "1000"])
    started = pidfds.start_time(child.pid)
    assert started is not None
    assert started >= (pidfds.start_time(os.getpid()) or 0)
    child.kill()
    await child.wait(10)
    assert pidfds.start_time(child.pid) is None


_ADOPTION_SCRIPT = """
import asyncio, os, signal, sys
from crib.host import adoption, orphans, processes

async def left(script, file=sys.argv[1]):
    # it waits for nothing (a shell would): as `runc exec --detach`
    starter = (
        "import os, sys\\n"
        "if not (pid := os.fork()): os.execvp('sh', ['sh', '-c', sys.argv[1]])\\n"
        "open(sys.argv[2], 'w').write(str(pid))\\n"
    )
    with adoption.expecting():
        child = processes.spawn([sys.executable, "-SEc", starter, script, file])
        assert await child.wait(100) == 0
        return adoption.Adopted(int(open(file).read()))

async def main():
    orphans.become_subreaper()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, orphans.reap_orphans)
    assert await (await left("sleep 0.1; exit 7")).wait() == 7
    assert await (await left("kill -9 $$")).wait() == -9
    many = await asyncio.gather(*(left(f"exit {n}", f"{sys.argv[1]}{n}") for n in range(30)))
    codes = await asyncio.gather(*(one.wait() for one in many))
    assert codes == list(range(30)), codes
    late = await left("exec sleep 60")
    assert late.signal(signal.SIGTERM)
    assert await late.wait() == -15
    assert not late.signal(signal.SIGTERM)
    # A code from before is nobody's, as pids are used again.
    with adoption.expecting():
        adoption.keep(1, 3)
        with adoption.expecting():
            adoption.keep(2, 4)
        assert list(adoption._kept) == [1, 2]
    with adoption.expecting():
        pass
    assert not adoption._kept and not adoption._awaited and not adoption._expecting
    print("all told")

asyncio.run(main())
"""


def test_the_code_of_what_a_program_left_to_us_is_told(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ADOPTION_SCRIPT, str(tmp_path / "pid")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert result.stdout == b"all told\n", result.stderr.decode()


_REAPER_SCRIPT = """
import asyncio, os, signal, sys
from crib.host import orphans, pidfds, processes

async def main():
    orphans.become_subreaper()
    loop = asyncio.get_running_loop()
    reaped, enough = {}, asyncio.Event()
    def on_sigchld():
        for one in orphans.reap_orphans():
            reaped[one.pid] = one.exit_code
        if len(reaped) >= 30:
            enough.set()
    loop.add_signal_handler(signal.SIGCHLD, on_sigchld)
    script = "(sh -c 'exit 7' &) ; exit 5"
    results = await asyncio.gather(*(processes.run(["sh", "-c", script]) for _ in range(30)))
    assert [result.exit_code for result in results] == [5] * 30, results
    await asyncio.wait_for(enough.wait(), 100)
    assert set(reaped.values()) == {7}, reaped
    assert orphans.reap_orphans() == []
    child = processes.spawn(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert orphans.reap_orphans() == []
    assert await child.wait(10) == 0
    print("all reaped")

asyncio.run(main())
"""


def test_orphans_are_reaped_and_never_the_children_that_are_waited_for() -> None:
    # In a process of its own: being a subreaper would change what other tests see.
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _REAPER_SCRIPT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert result.stdout == b"all reaped\n", result.stderr.decode()


async def test_a_program_gets_the_oom_score_that_it_is_given_and_we_keep_ours() -> None:
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    with Capture(100) as out:
        child = spawn(("cat", str(score)), SpawnOptions(stdout=out.child_end, oom_score_adj=700))
        out.start()
        assert await child.wait(10) == 0
        assert out.finish() == b"700\n"
    assert score.read_text() == before
    with pytest.raises(ToolMissing):
        spawn(("no-such-program",), SpawnOptions(oom_score_adj=700))
    assert score.read_text() == before


async def test_a_program_without_input_reads_an_end_and_has_no_device_of_the_host() -> None:
    done = await run(("sh", "-c", "cat; readlink /proc/self/fd/0"))
    assert done.stdout.startswith(b"pipe:")


_ADOPTER_SCRIPT = """
import asyncio, os, signal
from crib.host import orphans, processes

async def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever started us may have left it so
    orphans.REAP_EVERY = 0.02
    orphans.adopt_orphans()
    result = await processes.run(["sh", "-c", "(exec sleep 0.1 &) ; exit 5"])
    assert result.exit_code == 5, result
    async with asyncio.timeout(100):
        while has_children():
            await asyncio.sleep(0.01)  # nobody is told
    print("all collected")

def has_children():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True

asyncio.run(main())
"""


def test_an_orphan_that_ends_later_is_collected_without_a_signal() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ADOPTER_SCRIPT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert result.stdout == b"all collected\n", result.stderr.decode()
