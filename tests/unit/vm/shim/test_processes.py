"""Bytes and ends of a guest's processes, by an agent that is made up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from crib.stubs.shim import task_pb2
from crib.stubs.vm import guest_pb2
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.messages import typed
from crib.vm.shim import carrying
from crib.vm.shim.agent import GUEST, TASKS, AgentClient
from crib.vm.shim.carrying import ProcessKey
from crib.vm.shim.processes import Processes, ProcessPaths, VmProcess
from crib.wire.rpc_codes import Code
from tests.fakes.world import bounded
from tests.unit.vm.shim.fake_agent import FakeAgent, linked

KEY = ProcessKey("one", "")


@dataclass
class Guest:
    """What the agent's processes do."""

    output: bytes = b""
    has_ended: bool = False
    holds_output: bool = False
    """Something that the process left behind does."""
    taken: bytes = b""
    input_ended: asyncio.Event = field(default_factory=asyncio.Event)
    written: asyncio.Event = field(default_factory=asyncio.Event)
    change: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[str] = field(default_factory=list)

    def changed(self) -> None:
        before, self.change = self.change, asyncio.Event()
        before.set()

    async def read(self, request: guest_pb2.ReadRequest) -> guest_pb2.ReadResponse:
        if request.stream != carrying.STDOUT:
            return guest_pb2.ReadResponse(eof=True)
        while True:
            rest = self.output[request.offset : request.offset + 1000]
            if rest:
                return guest_pb2.ReadResponse(data=rest)
            if self.has_ended and not self.holds_output:
                return guest_pb2.ReadResponse(eof=True)
            if request.wait:
                return guest_pb2.ReadResponse()
            await self.change.wait()

    async def write(self, request: guest_pb2.WriteRequest) -> guest_pb2.WriteResponse:
        taken = request.data[:7]
        self.taken += taken
        self.written.set()
        return guest_pb2.WriteResponse(accepted=len(taken))

    async def close_io(self, _request: task_pb2.CloseIORequest) -> Empty:
        self.input_ended.set()
        return Empty()

    async def wait(self, _request: task_pb2.WaitRequest) -> task_pb2.WaitResponse:
        while not self.has_ended:
            await self.change.wait()
        said = task_pb2.WaitResponse(exit_status=3)
        said.exited_at.FromNanoseconds(5)
        return said

    def services(self) -> dict[str, dict[str, object]]:
        return {
            GUEST: {
                "Read": typed(guest_pb2.ReadRequest, self.read),
                "Write": typed(guest_pb2.WriteRequest, self.write),
            },
            TASKS: {
                "Wait": typed(task_pb2.WaitRequest, self.wait),
                "CloseIO": typed(task_pb2.CloseIORequest, self.close_io),
            },
        }


@dataclass
class Rig:
    guest: Guest
    agent: FakeAgent
    client: AgentClient
    processes: Processes
    paths: ProcessPaths

    async def followed(self) -> VmProcess:
        process = self.processes.add(KEY, self.paths)
        await self.processes.open_streams(process)
        self.processes.follow(process)
        return process


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    guest, keeper = Guest(), TaskKeeper()
    paths = ProcessPaths(*(str(tmp_path / name) for name in ("in", "out", "err")), terminal=False)  # type: ignore[arg-type, misc]  # as it comes
    for path in (paths.stdin, paths.stdout, paths.stderr):
        os.mkfifo(path)

    async def before_end(process: VmProcess) -> None:
        guest.told.append(process.key.container)

    async with linked() as (link, agent):
        agent.greet(1, guest.services())  # type: ignore[arg-type]  # handlers by name
        client = AgentClient(link)
        await client.next_generation(0)
        processes = Processes(client, keeper, before_end)
        yield Rig(guest, agent, client, processes, paths)
        for process in processes.of("one"):
            processes.forget(process)
        await keeper.close(1)


def opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


async def test_all_output_is_in_the_fifo_before_the_end_is_told(rig: Rig) -> None:
    async with bounded():
        reader = opened(rig.paths.stdout)
        process = await rig.followed()
        rig.guest.output, rig.guest.has_ended = bytes(range(256)) * 100, True
        rig.guest.changed()
        ended = await process.ended
        assert (ended.code, ended.at) == (3, 5)
        assert os.read(reader, 1 << 20) == rig.guest.output
        assert os.read(reader, 1) == b"", "nobody holds it any more"
        assert rig.guest.told == ["one"]
        os.close(reader)


async def test_what_a_process_left_behind_holds_up_no_end(rig: Rig) -> None:
    async with bounded():
        reader = opened(rig.paths.stdout)
        rig.guest.holds_output = True
        process = await rig.followed()
        rig.guest.output, rig.guest.has_ended = b"last", True
        rig.guest.changed()
        assert (await process.ended).code == 3
        assert os.read(reader, 10) == b"last"
        os.close(reader)


async def test_output_that_nobody_takes_delays_an_end_for_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "FULL_TIME", 0.05)
    async with bounded():
        reader = opened(rig.paths.stdout)
        process = await rig.followed()
        rig.guest.output, rig.guest.has_ended = bytes(600_000), True
        rig.guest.changed()
        assert (await process.ended).code == 3
        got = 0
        while got < 600_000:  # and goes on when somebody takes it
            try:
                got += len(os.read(reader, 1 << 20))
            except BlockingIOError:
                await asyncio.sleep(0.001)  # nothing tells of a fifo that fills
        os.close(reader)


async def test_input_is_taken_in_parts_and_ends_when_all_have_let_go(rig: Rig) -> None:
    async with bounded():
        process = await rig.followed()
        writer = os.open(rig.paths.stdin, os.O_WRONLY)
        os.write(writer, b"a rather long line of input")
        assert rig.processes.close_input(process)
        os.close(writer)
        await rig.guest.input_ended.wait()
        assert rig.guest.taken == b"a rather long line of input"


async def test_input_stays_open_while_the_caller_has_not_closed_it(rig: Rig) -> None:
    async with bounded():
        await rig.followed()
        os.close(os.open(rig.paths.stdin, os.O_WRONLY))
        writer = os.open(rig.paths.stdin, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, b"again")
        await rig.guest.written.wait()
        assert rig.guest.taken == b"again"
        assert not rig.guest.input_ended.is_set()
        os.close(writer)


async def test_with_their_agent_processes_have_ended(rig: Rig) -> None:
    async with bounded():
        old = await rig.followed()
        rig.agent.greet(2, rig.guest.services())  # type: ignore[arg-type]  # handlers by name
        assert await rig.client.next_generation(1) == 2
        new = rig.processes.add(ProcessKey("two", ""), rig.paths)
        rig.processes.lose(1)
        assert (await old.ended).code == 137
        assert not new.ended.done()


@pytest.mark.parametrize("path", ["binary:///bin/logger", "file:///x"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(CallFailed) as error:
        carrying.check_path("stdout", path)
    assert error.value.code == Code.UNIMPLEMENTED
    assert "stdout" in str(error.value)
