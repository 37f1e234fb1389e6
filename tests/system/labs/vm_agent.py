"""The host's end of a guest's agent, for tests: what greets it, and calls with messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.message import Message

from crib.stubs.shim import metrics_v2_pb2, task_pb2
from crib.stubs.vm import guest_pb2
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.mux import Mux, MuxCarrier
from crib.wire.mux import HEADER_BYTES
from crib.wire.rpc_codes import Code

CALL_SECONDS = 120.0
GREETING_BYTES = 28
GREETINGS, CALLS = 0, 1
TASK = "containerd.task.v3.Task"
GUEST = "crib.vm.v1.Guest"
WANTED = "wanted"
"""A stream that the host wants; what the word is does not matter."""

Answer = TypeVar("Answer", bound=Message)


class AgentCalls:
    """Calls of one agent. CallFailed is the agent's answer, PeerLost the end of the connection."""

    def __init__(self, client: TtrpcClient, greeting: guest_pb2.Greeting, later: Greetings) -> None:
        self.client = client
        self.greeting = greeting
        self._later = later

    async def next_agent(self) -> None:
        """Returns when another agent has greeted: calls are its own from then on."""
        self.greeting = await self._later.next()

    async def task(self, method: str, question: Message, answer: type[Answer]) -> Answer:
        """A call of the task service."""
        data = await self.client.call(TASK, method, question.SerializeToString(), CALL_SECONDS)
        return answer.FromString(data)

    async def guest(self, method: str, question: Message, answer: type[Answer]) -> Answer:
        """A call of the guest's own service."""
        data = await self.client.call(GUEST, method, question.SerializeToString(), CALL_SECONDS)
        return answer.FromString(data)

    async def create(self, name: str, bundle: str, **streams: Any) -> int:
        """Create a container; its pid. Output is wanted, input is not, unless `streams` say otherwise."""
        asked = {"stdout": WANTED, "stderr": "" if streams.get("terminal") else WANTED, **streams}
        request = task_pb2.CreateTaskRequest(id=name, bundle=bundle, **asked)
        return (await self.task("Create", request, task_pb2.CreateTaskResponse)).pid

    async def start(self, name: str, exec_id: str = "") -> int:
        """Start a process; its pid."""
        request = task_pb2.StartRequest(id=name, exec_id=exec_id)
        return (await self.task("Start", request, task_pb2.StartResponse)).pid

    async def execute(self, name: str, exec_id: str, arguments: list[str], **streams: Any) -> None:
        """Prepare a command and start it."""
        terminal = bool(streams.get("terminal"))
        process = {
            "args": arguments, "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
        }  # fmt: skip
        asked = {"stdout": WANTED, "stderr": "" if terminal else WANTED, **streams}
        spec = any_pb2.Any(value=json.dumps(process).encode())
        request = task_pb2.ExecProcessRequest(id=name, exec_id=exec_id, spec=spec, **asked)
        await self.task("Exec", request, empty_pb2.Empty)
        await self.start(name, exec_id)

    async def wait(self, name: str, exec_id: str = "") -> task_pb2.WaitResponse:
        """How a process ended, once it has."""
        return await self.task("Wait", task_pb2.WaitRequest(id=name, exec_id=exec_id), task_pb2.WaitResponse)

    async def state(self, name: str, exec_id: str = "") -> task_pb2.StateResponse:
        """What is told of a process."""
        request = task_pb2.StateRequest(id=name, exec_id=exec_id)
        return await self.task("State", request, task_pb2.StateResponse)

    async def kill(self, name: str, signal: int, **how: Any) -> None:
        """A signal."""
        await self.task("Kill", task_pb2.KillRequest(id=name, signal=signal, **how), empty_pb2.Empty)

    async def delete(self, name: str, exec_id: str = "") -> task_pb2.DeleteResponse:
        """Forget a process."""
        request = task_pb2.DeleteRequest(id=name, exec_id=exec_id)
        return await self.task("Delete", request, task_pb2.DeleteResponse)

    async def metrics(self, name: str) -> metrics_v2_pb2.Metrics:
        """What a container uses."""
        said = await self.task("Stats", task_pb2.StatsRequest(id=name), task_pb2.StatsResponse)
        return metrics_v2_pb2.Metrics.FromString(said.stats.value)

    async def read(self, **asked: Any) -> guest_pb2.ReadResponse:
        """A piece of a stream."""
        return await self.guest("Read", guest_pb2.ReadRequest(**asked), guest_pb2.ReadResponse)

    async def read_all(self, **asked: Any) -> bytes:
        """A stream to its end; stdout unless `asked` says otherwise."""
        asked = {"stream": 1, **asked} if "connection" not in asked else asked
        data = bytearray()
        while True:
            piece = await self.read(offset=len(data), **asked)
            data += piece.data
            if piece.eof:
                return bytes(data)

    async def read_until(self, end: bytes, **asked: Any) -> bytes:
        """A stream until it has these bytes. AssertionError if it ends before."""
        asked = {"stream": 1, **asked} if "connection" not in asked else asked
        data = bytearray()
        while end not in data:
            piece = await self.read(offset=len(data), **asked)
            data += piece.data
            assert end in data or not piece.eof, bytes(data)
        return bytes(data)

    async def write_all(self, data: bytes, **asked: Any) -> None:
        """All of the bytes, as room comes."""
        while data:
            request = guest_pb2.WriteRequest(data=data[: 64 << 10], **asked)
            said = await self.guest("Write", request, guest_pb2.WriteResponse)
            data = data[said.accepted :]


class Greetings:
    """Those of agents after the first, which are answered."""

    def __init__(self, carrier: MuxCarrier) -> None:
        self._carrier = carrier
        self._held = bytearray()
        self._greetings: asyncio.Queue[guest_pb2.Greeting] = asyncio.Queue()
        carrier.attach(self)

    def received(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= GREETING_BYTES:
            payload = bytes(self._held[:GREETING_BYTES])
            del self._held[:GREETING_BYTES]
            self._carrier.put(payload)
            self._greetings.put_nowait(guest_pb2.Greeting.FromString(payload))

    def lost(self, reason: str) -> None:
        """None comes any more: whoever waits has a limit."""

    async def next(self) -> guest_pb2.Greeting:
        """The next one."""
        return await self._greetings.get()


@contextlib.asynccontextmanager
async def connected(path: Path, limit: float) -> AsyncIterator[AgentCalls]:
    """Greet the agent behind a socket that is there soon. TimeoutError if it does not within `limit` s."""
    async with asyncio.timeout(limit):
        while True:
            plain = socket.socket(socket.AF_UNIX)
            try:
                plain.connect(str(path))
                break
            except OSError:
                plain.close()
                await asyncio.sleep(0.02)  # nothing tells when qemu listens
    async with greeted(plain, limit) as calls:
        yield calls


@contextlib.asynccontextmanager
async def greeted(plain: socket.socket, limit: float) -> AsyncIterator[AgentCalls]:
    """Greet the agent at the other end of a socket, which is closed at the end."""
    loop = asyncio.get_running_loop()
    plain.setblocking(False)
    frame = bytearray()
    try:
        async with asyncio.timeout(limit):
            while len(frame) < HEADER_BYTES + GREETING_BYTES:
                piece = await loop.sock_recv(plain, HEADER_BYTES + GREETING_BYTES - len(frame))
                assert piece, "the agent's connection ended"
                frame += piece
            await loop.sock_sendall(plain, bytes(frame))
    except BaseException:
        plain.close()
        raise
    greeting = guest_pb2.Greeting.FromString(bytes(frame[HEADER_BYTES:]))
    _, trunk = await loop.create_unix_connection(SocketCarrier, sock=plain)
    both = Mux(trunk, [GREETINGS, CALLS])
    later = Greetings(both.carrier(GREETINGS))
    client = TtrpcClient(both.carrier(CALLS))
    try:
        yield AgentCalls(client, greeting, later)
    finally:
        trunk.abort("the test is over")
        await client.gone()


async def refused(waiting: Awaitable[object], code: Code, words: str) -> None:
    """The call is answered with this error, whose text has these words."""
    with pytest.raises(CallFailed) as caught:
        await waiting
    assert (caught.value.code, words in str(caught.value)) == (code, True), str(caught.value)
