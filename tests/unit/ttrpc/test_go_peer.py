"""A ttrpc server that others wrote: containerd's shim for runc, spoken to without a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.empty_pb2 import Empty

from crib.stubs.shim import task_pb2
from crib.tasks.groups import Beside
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import CallFailed, CallTimedOut, PeerLost
from crib.ttrpc.messages import ServiceClient
from crib.wire.rpc_codes import Code
from crib.wire.ttrpc import MAX_DATA_BYTES
from tests.unit.ttrpc.ends import BOUND, carrier_of

SHIM = shutil.which("containerd-shim-runc-v2")
TASKS = "containerd.task.v2.Task"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(SHIM is None, reason="containerd-shim-runc-v2 comes with Debian's containerd"),
]


@dataclass(frozen=True)
class Shim:
    program: subprocess.Popen[bytes]
    client: TtrpcClient

    @property
    def tasks(self) -> ServiceClient:
        return ServiceClient(self.client, TASKS)


def started(listening: socket.socket, directory: Path) -> subprocess.Popen[bytes]:
    """It serves the socket that it gets as its descriptor 3."""
    options = ("-namespace", "test", "-id", "x", "-address", "/nonexistent")
    return subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" 3<&0 </dev/null', str(SHIM), *options],
        cwd=directory,
        env={**os.environ, "TTRPC_ADDRESS": str(directory / "events")},
        stdin=cast(Any, listening),  # whatever has a descriptor
    )


def stop(program: subprocess.Popen[bytes]) -> None:
    """Returns when all of its threads have stopped."""
    program.send_signal(signal.SIGSTOP)
    os.waitpid(program.pid, os.WUNTRACED)


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[Shim]:
    # it logs into a fifo in its directory, which somebody has to hold
    os.mkfifo(tmp_path / "log")
    log = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as end:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        end.connect(str(tmp_path / "s"))
        program = started(listening, tmp_path)
        carrier = await carrier_of(end.dup())
    try:
        yield Shim(program, TtrpcClient(carrier))
    finally:
        program.kill()
        program.wait()
        os.close(log)
        async with asyncio.timeout(BOUND):
            await carrier.over.wait()


async def test_it_answers_and_its_errors_have_their_codes(shim: Shim) -> None:
    connected = await shim.tasks.call(
        "Connect", task_pb2.ConnectRequest(id="x"), task_pb2.ConnectResponse, BOUND
    )
    assert connected.shim_pid == shim.program.pid
    with pytest.raises(CallFailed, match="not found") as failed:
        await shim.tasks.call("State", task_pb2.StateRequest(id="x"), task_pb2.StateResponse, BOUND)
    assert failed.value.code == Code.NOT_FOUND
    with pytest.raises(CallFailed) as failed:
        await shim.client.call("containerd.task.v9.Task", "State", b"", BOUND)
    assert failed.value.code == Code.UNIMPLEMENTED


async def test_it_takes_many_calls_at_a_time_and_long_ones(shim: Shim) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(300):
            group.create_task(shim.client.call(TASKS, "Connect", b"", BOUND))
    longest = task_pb2.StateRequest(id="x" * (MAX_DATA_BYTES - 200))
    with pytest.raises(CallFailed) as failed:
        await shim.tasks.call("State", longest, task_pb2.StateResponse, BOUND)
    assert failed.value.code == Code.NOT_FOUND


async def test_calls_end_while_it_hangs_and_when_it_is_killed(shim: Shim) -> None:
    await shim.client.call(TASKS, "Connect", b"", BOUND)
    stop(shim.program)
    with pytest.raises(CallTimedOut):
        await shim.client.call(TASKS, "Connect", b"", 0.01)
    async with asyncio.timeout(BOUND), Beside() as beside:
        waiting = [beside.start("call", shim.client.call(TASKS, "Connect", b"", None)) for _ in range(10)]
        shim.program.kill()
        for one in waiting:
            with pytest.raises(PeerLost):
                await one


async def test_it_goes_when_it_is_asked_to(shim: Shim) -> None:
    with contextlib.suppress(PeerLost):  # it may be gone before its answer is
        await shim.tasks.call("Shutdown", task_pb2.ShutdownRequest(id="x"), Empty, BOUND)
    async with asyncio.timeout(BOUND):
        await shim.client.gone()
    assert shim.program.wait(BOUND) == 0
