"""The task service of a shim, through ttrpc."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from crib.backends.runtime_words import create_failure
from crib.backends.shim.nouns import Connected, Ended, ProcessState, ProcessStatus, ShimLost, Stdio, Typed
from crib.model.errors import AlreadyExists, Broken, CribError, NotBuilt, NotFound, Unavailable, WrongState
from crib.stubs.shim import task_pb2, task_types_pb2
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import CallFailed, CallTimedOut, PeerLost
from crib.wire.rpc_codes import Code

Answer = TypeVar("Answer", bound=Message)

NAMESPACE = "crib"
"""Containerd's word for whose containers these are: part of sockets' names, and of the runtime's root."""
METADATA = {"containerd-namespace-ttrpc": NAMESPACE}
"""Of every call: shims refuse one without it (containerd, pkg/namespaces)."""
SPEC_URL = "types.containerd.io/opencontainers/runtime-spec/1/{}"
"""type_url of a part of the OCI spec in JSON (containerd's typeurl)."""
_ERRORS: dict[int, type[CribError]] = {
    Code.NOT_FOUND: NotFound,
    Code.ALREADY_EXISTS: AlreadyExists,
    Code.FAILED_PRECONDITION: WrongState,
    Code.UNIMPLEMENTED: NotBuilt,
    Code.UNAVAILABLE: Unavailable,
}
_STATUS = {
    task_types_pb2.CREATED: ProcessStatus.CREATED,
    task_types_pb2.RUNNING: ProcessStatus.RUNNING,
    task_types_pb2.STOPPED: ProcessStatus.STOPPED,
    task_types_pb2.PAUSED: ProcessStatus.PAUSED,
    task_types_pb2.PAUSING: ProcessStatus.PAUSING,
}


class ShimCalls:
    """Calls of one service of a shim, whose errors are those of the model."""

    def __init__(self, client: TtrpcClient, service: str, limit: Callable[[], float]) -> None:
        self._client = client
        self._service = service
        self._limit = limit

    async def call(
        self, method: str, question: Message, answer: type[Answer], *, bounded: bool = True
    ) -> Answer:
        """CribError, see TaskService."""
        name = f"{method} of the shim"
        limit = self._limit() if bounded else None
        data = question.SerializeToString()
        try:
            got = await self._client.call(self._service, method, data, limit, METADATA)
            return answer.FromString(got)
        except CallTimedOut:
            raise Unavailable(f"{name}: no answer within {limit or 0:.0f} s") from None
        except CallFailed as error:
            raise _ERRORS.get(error.code, Broken)(str(error)) from error
        except PeerLost as error:
            raise ShimLost(f"{name}: {error}") from error
        except DecodeError as error:
            raise Broken(f"{name}: its answer is not understood: {error}") from error


class ShimTasks:
    """See TaskService. `version` is that of the API: 2 or 3."""

    def __init__(self, client: TtrpcClient, version: int, limit: Callable[[], float]) -> None:
        self._calls = ShimCalls(client, f"containerd.task.v{version}.Task", limit)

    async def create(self, container: str, bundle: str, stdio: Stdio, options: Typed | None) -> int:
        request = task_pb2.CreateTaskRequest(
            id=container,
            bundle=bundle,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            options=None if options is None else any_message(options),
        )
        try:
            return (await self._calls.call("Create", request, task_pb2.CreateTaskResponse)).pid
        except Broken as error:
            raise create_failure(f"create of container {container}", error.problem) from error

    async def start(self, container: str, exec_id: str = "") -> int:
        request = task_pb2.StartRequest(id=container, exec_id=exec_id)
        return (await self._calls.call("Start", request, task_pb2.StartResponse)).pid

    async def exec(self, container: str, exec_id: str, process: bytes, stdio: Stdio) -> None:
        request = task_pb2.ExecProcessRequest(
            id=container,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            spec=AnyMessage(type_url=SPEC_URL.format("Process"), value=process),
        )
        await self._calls.call("Exec", request, Empty)

    async def resize_pty(self, container: str, width: int, height: int, exec_id: str = "") -> None:
        request = task_pb2.ResizePtyRequest(id=container, exec_id=exec_id, width=width, height=height)
        await self._calls.call("ResizePty", request, Empty)

    async def close_io(self, container: str, exec_id: str = "") -> None:
        await self._calls.call(
            "CloseIO", task_pb2.CloseIORequest(id=container, exec_id=exec_id, stdin=True), Empty
        )

    async def wait(self, container: str, exec_id: str = "") -> Ended:
        request = task_pb2.WaitRequest(id=container, exec_id=exec_id)
        said = await self._calls.call("Wait", request, task_pb2.WaitResponse, bounded=False)
        return Ended(said.exit_status, _nanoseconds(said.exited_at))

    async def state(self, container: str, exec_id: str = "") -> ProcessState:
        request = task_pb2.StateRequest(id=container, exec_id=exec_id)
        said = await self._calls.call("State", request, task_pb2.StateResponse)
        status = _STATUS.get(said.status, ProcessStatus.UNKNOWN)
        ended = Ended(said.exit_status, _nanoseconds(said.exited_at), said.pid)
        stdio = Stdio(said.stdin, said.stdout, said.stderr, said.terminal)
        return ProcessState(status, said.pid, stdio, ended if status is ProcessStatus.STOPPED else None)

    async def kill(self, container: str, signum: int, exec_id: str = "", *, everyone: bool = False) -> None:
        request = task_pb2.KillRequest(id=container, exec_id=exec_id, signal=signum, all=everyone)
        await self._calls.call("Kill", request, Empty)

    async def delete(self, container: str, exec_id: str = "") -> Ended:
        request = task_pb2.DeleteRequest(id=container, exec_id=exec_id)
        said = await self._calls.call("Delete", request, task_pb2.DeleteResponse)
        return Ended(said.exit_status, _nanoseconds(said.exited_at), said.pid)

    async def pids(self, container: str) -> list[int]:
        said = await self._calls.call("Pids", task_pb2.PidsRequest(id=container), task_pb2.PidsResponse)
        return [process.pid for process in said.processes]

    async def stats(self, container: str) -> Typed:
        said = await self._calls.call("Stats", task_pb2.StatsRequest(id=container), task_pb2.StatsResponse)
        return Typed(said.stats.type_url, said.stats.value)

    async def update(self, container: str, resources: bytes) -> None:
        limits = AnyMessage(type_url=SPEC_URL.format("LinuxResources"), value=resources)
        await self._calls.call("Update", task_pb2.UpdateTaskRequest(id=container, resources=limits), Empty)

    async def pause(self, container: str) -> None:
        await self._calls.call("Pause", task_pb2.PauseRequest(id=container), Empty)

    async def resume(self, container: str) -> None:
        await self._calls.call("Resume", task_pb2.ResumeRequest(id=container), Empty)

    async def connect(self, container: str) -> Connected:
        said = await self._calls.call(
            "Connect", task_pb2.ConnectRequest(id=container), task_pb2.ConnectResponse
        )
        return Connected(said.shim_pid, said.task_pid)

    async def shutdown(self, container: str) -> None:
        await self._calls.call("Shutdown", task_pb2.ShutdownRequest(id=container), Empty)


def any_message(typed: Typed) -> AnyMessage:
    """As it goes over the wire."""
    return AnyMessage(type_url=typed.type_url, value=typed.value)


def _nanoseconds(stamp: Timestamp) -> int:
    return stamp.ToNanoseconds()
