"""What the shim knows of the guest's processes: their streams, and how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty

from crib.host.threads import OURS, Job
from crib.stubs.shim import task_pb2 as task
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.errors import TtrpcError
from crib.vm.shim.agent import AgentClient
from crib.vm.shim.carrying import STDERR, STDOUT, GuestInput, GuestOutput, ProcessKey, drained, open_output

LOST_CODE = 137
"""Of a process whose VM or agent has gone."""
_OPEN_TIME = 10.0
_CLOSE_TIME = 30.0


@dataclass(frozen=True, slots=True)
class ProcessPaths:
    """Paths on the host; an empty one is no stream."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """Code (128 and the signal's number after a signal), nanoseconds since the epoch."""

    code: int
    at: int


@dataclass(slots=True, eq=False)
class VmProcess:
    """The first of a container, or a command."""

    key: ProcessKey
    stdio: ProcessPaths
    generation: int
    """Of the agent that made it, and with which it ends."""
    ended: asyncio.Future[ProcessEnd]
    pid: int = 0
    """In the guest."""
    outputs: list[GuestOutput] = field(default_factory=list)
    carried: list[asyncio.Task[None]] = field(default_factory=list)
    input: GuestInput | None = None
    is_followed: bool = False


class Processes:
    """Of one VM."""

    def __init__(
        self, agent: AgentClient, keeper: TaskKeeper, before_end: Callable[[VmProcess], Awaitable[None]]
    ) -> None:
        """`before_end` is waited for before an end is told."""
        self._agent = agent
        self._keeper = keeper
        self._before_end = before_end
        self._known: dict[ProcessKey, VmProcess] = {}

    def add(self, key: ProcessKey, stdio: ProcessPaths) -> VmProcess:
        """A new one."""
        loop = asyncio.get_running_loop()
        made = VmProcess(key, stdio, self._agent.generation, loop.create_future())
        self._known[key] = made
        return made

    def find(self, key: ProcessKey) -> VmProcess | None:
        return self._known.get(key)

    def of(self, container: str) -> list[VmProcess]:
        """Of one container, its first process last."""
        found = [one for key, one in self._known.items() if key.container == container]
        return sorted(found, key=lambda one: one.key.exec_id, reverse=True)

    @property
    def containers(self) -> list[str]:
        """Ids."""
        return [key.container for key in self._known if not key.exec_id]

    async def open_streams(self, process: VmProcess) -> None:
        """Open its fifos. OSError."""
        stdio, key = process.stdio, process.key
        named = ((STDOUT, stdio.stdout), (STDERR, "" if stdio.terminal else stdio.stderr))
        job = Job(
            f"the fifos of {key.container} {key.exec_id}".rstrip(), owner=key.container, limit=_OPEN_TIME
        )
        for stream, path in named:
            if path:
                process.outputs.append(
                    GuestOutput(self._agent, key, stream, await OURS.run(job, open_output, path))
                )
        if stdio.stdin:
            process.input = GuestInput(self._agent, key, stdio.stdin)

    def follow(self, process: VmProcess) -> None:
        """Carry its bytes, and wait for its end. Safe to repeat."""
        if process.is_followed:
            return
        process.is_followed = True
        owner = process.key.container
        process.carried = [self._keeper.part("output", one.carry(), owner) for one in process.outputs]
        if process.input is not None:
            self._keeper.part("input", self._feed(process, process.input), owner)
        self._keeper.part("waiting for an end", self._wait(process), owner)

    def close_input(self, process: VmProcess) -> bool:
        """Let go of its input; False if there is none that is carried."""
        if process.input is None:
            return False
        process.input.let_go()
        return True

    def forget(self, process: VmProcess) -> None:
        """It is deleted: nothing of it is carried any more. Safe to repeat."""
        self._known.pop(process.key, None)
        for carried in process.carried:
            carried.cancel()
        if process.input is not None:
            process.input.close()
        for output in process.outputs:
            output.close()
        self._end(process, ProcessEnd(LOST_CODE, time.time_ns()))

    def lose(self, generation: int | None = None) -> None:
        """All have ended that an agent up to `generation` has made; None: all."""
        for process in tuple(self._known.values()):
            if generation is None or process.generation <= generation:
                self._end(process, ProcessEnd(LOST_CODE, time.time_ns()))

    async def _wait(self, process: VmProcess) -> None:
        request = task.WaitRequest(id=process.key.container, exec_id=process.key.exec_id)
        try:
            said = await self._agent.task("Wait", request, task.WaitResponse, None)
        except TtrpcError:
            return  # `lose` or `forget` tells its end
        await drained(process.carried, process.outputs)
        await self._before_end(process)
        self._end(process, ProcessEnd(said.exit_status, said.exited_at.ToNanoseconds()))

    async def _feed(self, process: VmProcess, source: GuestInput) -> None:
        if await source.carry():
            request = task.CloseIORequest(id=process.key.container, exec_id=process.key.exec_id, stdin=True)
            with contextlib.suppress(TtrpcError):  # it has ended
                await self._agent.task("CloseIO", request, Empty, _CLOSE_TIME)

    def _end(self, process: VmProcess, ended: ProcessEnd) -> None:
        if not process.ended.done():
            process.ended.set_result(ended)
