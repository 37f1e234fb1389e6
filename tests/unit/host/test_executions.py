"""Processes that become the programs that they were made for."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crib.host import libc
from crib.host.executions import Executions
from crib.host.pidfds import awaits_program, start_time

BOUND = 60.0


@contextmanager
def forked() -> Iterator[tuple[int, int]]:
    """A child that becomes sleep(1) when it gets SIGUSR1, and the time of its start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    child = os.fork()
    if child == 0:
        signal.sigwait({signal.SIGUSR1})
        os.execv("/bin/sleep", ["sleep", "1000"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    try:
        started = start_time(child)
        assert started is not None
        yield child, started
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


async def test_an_execve_ends_the_wait_and_nothing_else_does() -> None:
    executions = Executions()
    with forked() as (child, started), executions.watching(child):
        assert awaits_program(child, started)
        with pytest.raises(TimeoutError):
            await executions.wait(child, started, 0.05)
        asyncio.get_running_loop().call_soon(os.kill, child, signal.SIGUSR1)
        await asyncio.gather(*(executions.wait(child, started, BOUND) for _ in range(2)))
        assert os.readlink(f"/proc/{child}/exe").endswith("sleep")
        assert not awaits_program(child, started)
    executions.close()


async def test_a_process_that_has_ended_or_whose_number_is_anothers_is_not_waited_for() -> None:
    executions = Executions()
    with forked() as (child, started), executions.watching(child):
        await executions.wait(child, started - 1, BOUND)
        os.kill(child, signal.SIGKILL)
        await executions.wait(child, started, BOUND)
    with executions.watching(child):
        await executions.wait(child, started, BOUND)
    executions.close()


async def test_an_execve_is_noticed_where_the_kernel_has_no_inotify_instance_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def used_up() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(libc, "inotify_init", used_up)
    executions = Executions()
    with forked() as (child, started), executions.watching(child):
        asyncio.get_running_loop().call_soon(os.kill, child, signal.SIGUSR1)
        await executions.wait(child, started, BOUND)
        assert not awaits_program(child, started)
    executions.close()
