"""A shim whose containers run nothing: the program, and the server that it leaves behind.

    python shim_program.py MODE -namespace … -id ID … start | delete | (nothing: serve)

MODE is a file of JSON: `answer` (plain, json), `groups` (one shim for a pod), `service` (it has the sandbox
service). What the server was asked is appended to MODE.calls, a line for each.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from crib.stubs.shim import metrics_v2_pb2, sandbox_pb2, task_pb2, task_types_pb2
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.carriers import SocketCarrier
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.messages import typed
from crib.ttrpc.server import Services, TtrpcServer
from crib.wire.rpc_codes import Code

SANDBOX = "containerd.runtime.sandbox.v1.Sandbox"


class Container:
    """One that runs nothing."""

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout
        self.status = task_types_pb2.CREATED
        self.code = 0
        self.ended = asyncio.Event()
        self.at = 0

    def end(self, code: int) -> None:
        if not self.ended.is_set():
            self.status, self.code, self.at = task_types_pb2.STOPPED, code, time.time_ns()
            self.ended.set()


class Server:
    """Answers for all containers of one shim."""

    def __init__(self, mode: Path) -> None:
        self._calls = Path(f"{mode}.calls")
        self._options = json.loads(mode.read_text())
        self._containers: dict[str, Container] = {}
        self.over = asyncio.Event()

    @property
    def services(self) -> Services:
        """By version of the task API, and of sandboxes."""
        kinds: dict[str, tuple[type[Message], Callable[[Any], Awaitable[Message]]]] = {
            "Create": (task_pb2.CreateTaskRequest, self.create),
            "Start": (task_pb2.StartRequest, self.start),
            "State": (task_pb2.StateRequest, self.state),
            "Wait": (task_pb2.WaitRequest, self.wait),
            "Kill": (task_pb2.KillRequest, self.kill),
            "Delete": (task_pb2.DeleteRequest, self.delete),
            "Update": (task_pb2.UpdateTaskRequest, self.done),
            "Stats": (task_pb2.StatsRequest, self.stats),
            "Connect": (task_pb2.ConnectRequest, self.connect),
            "Shutdown": (task_pb2.ShutdownRequest, self.shutdown),
        }
        tasks = {name: typed(kind, self._noted(name, work)) for name, (kind, work) in kinds.items()}
        found: dict[str, Any] = {"containerd.task.v2.Task": tasks, "containerd.task.v3.Task": tasks}
        if self._options.get("service"):
            pods: dict[str, tuple[type[Message], Callable[[Any], Awaitable[Message]]]] = {
                "PingSandbox": (sandbox_pb2.PingRequest, self.ping),
                "CreateSandbox": (sandbox_pb2.CreateSandboxRequest, self.create_sandbox),
                "StartSandbox": (sandbox_pb2.StartSandboxRequest, self.start_sandbox),
                "StopSandbox": (sandbox_pb2.StopSandboxRequest, self.stop_sandbox),
                "ShutdownSandbox": (sandbox_pb2.ShutdownSandboxRequest, self.shutdown_sandbox),
            }
            found[SANDBOX] = {
                name: typed(kind, self._noted(name, work)) for name, (kind, work) in pods.items()
            }
        return found

    def _noted(
        self, name: str, work: Callable[[Any], Awaitable[Message]]
    ) -> Callable[[Any], Awaitable[Message]]:
        async def noted(request: Any) -> Message:
            with self._calls.open("a") as file:
                file.write(f"{name} {getattr(request, 'id', '') or getattr(request, 'sandbox_id', '')}\n")
            return await work(request)

        return noted

    def _of(self, name: str) -> Container:
        if name not in self._containers:
            raise CallFailed(Code.NOT_FOUND, "container not created")
        return self._containers[name]

    async def create(self, request: task_pb2.CreateTaskRequest) -> Message:
        self._containers[request.id] = Container(request.stdout)
        return task_pb2.CreateTaskResponse(pid=os.getpid())

    async def start(self, request: task_pb2.StartRequest) -> Message:
        found = self._of(request.id)
        found.status = task_types_pb2.RUNNING
        if found.stdout:
            with open(found.stdout, "wb") as file:  # noqa: ASYNC230  # its reader is there
                file.write(b"from inside\n")
        return task_pb2.StartResponse(pid=os.getpid())

    async def state(self, request: task_pb2.StateRequest) -> Message:
        found = self._of(request.id)
        said = task_pb2.StateResponse(id=request.id, status=found.status, exit_status=found.code)
        said.exited_at.FromNanoseconds(found.at)
        return said

    async def wait(self, request: task_pb2.WaitRequest) -> Message:
        found = self._of(request.id)
        await found.ended.wait()
        said = task_pb2.WaitResponse(exit_status=found.code)
        said.exited_at.FromNanoseconds(found.at)
        return said

    async def kill(self, request: task_pb2.KillRequest) -> Message:
        self._of(request.id).end(128 + request.signal)
        return Empty()

    async def delete(self, request: task_pb2.DeleteRequest) -> Message:
        if not self._of(request.id).ended.is_set():
            raise CallFailed(Code.FAILED_PRECONDITION, "it runs")
        return task_pb2.DeleteResponse(exit_status=self._containers.pop(request.id).code)

    async def done(self, _request: Message) -> Message:
        return Empty()

    async def stats(self, request: task_pb2.StatsRequest) -> Message:
        self._of(request.id)
        said = metrics_v2_pb2.Metrics()
        said.cpu.usage_usec, said.memory.usage = 7, 4096
        answer = task_pb2.StatsResponse()
        answer.stats.type_url = "io.containerd.cgroups.v2.Metrics"
        answer.stats.value = said.SerializeToString()
        return answer

    async def connect(self, _request: Message) -> Message:
        return task_pb2.ConnectResponse(shim_pid=os.getpid())

    async def shutdown(self, _request: Message) -> Message:
        if not self._containers:
            asyncio.get_running_loop().call_later(0.01, self.over.set)
        return Empty()

    async def ping(self, _request: Message) -> Message:
        return sandbox_pb2.PingResponse()

    async def create_sandbox(self, request: sandbox_pb2.CreateSandboxRequest) -> Message:
        if not os.path.exists(request.netns_path):  # it serves nobody else
            raise CallFailed(Code.INVALID_ARGUMENT, f"no network at {request.netns_path}")
        return sandbox_pb2.CreateSandboxResponse()

    async def start_sandbox(self, _request: Message) -> Message:
        return sandbox_pb2.StartSandboxResponse(pid=os.getpid())

    async def stop_sandbox(self, _request: Message) -> Message:
        return sandbox_pb2.StopSandboxResponse()

    async def shutdown_sandbox(self, _request: Message) -> Message:
        self.over.set()
        return sandbox_pb2.ShutdownSandboxResponse()


async def serve(mode: Path, socket: str) -> None:
    server, keeper, loop = Server(mode), TaskKeeper(), asyncio.get_running_loop()

    class Accepted(SocketCarrier):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            TtrpcServer(self, server.services, keeper.part)

    loop.add_signal_handler(signal.SIGTERM, server.over.set)
    await loop.create_unix_server(Accepted, socket)
    os.chmod(socket, 0o600)  # it serves nobody else
    await server.over.wait()
    os.unlink(socket)  # it serves nobody else


def start(mode: Path, instance: str, arguments: list[str]) -> None:
    options = json.loads(mode.read_text())
    sys.stdin.buffer.read()
    spec = json.loads(Path("config.json").read_text())
    pod = spec["annotations"]["io.kubernetes.cri.sandbox-id"]
    name = pod if options["groups"] else instance
    socket = f"{mode.parent}/{hashlib.sha256(name.encode()).hexdigest()[:20]}"
    if not os.path.exists(socket):
        command = [sys.executable, __file__, str(mode), *arguments]
        with open("log", "wb") as log:  # of the daemon, which reads it
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        while not os.path.exists(socket):
            assert server.poll() is None, "it did not come up"
            time.sleep(0.01)  # the test's own bound holds
    address = f"unix://{socket}"
    if options["answer"] == "json":
        print(json.dumps({"version": 3, "address": address, "protocol": "ttrpc"}))
    else:
        print(address, end="")


def main() -> None:
    mode, arguments = Path(sys.argv[1]), sys.argv[2:]
    if "-v" in arguments:
        print("containerd-shim-kata-v2:\n  Version:  9.9\n")
        return
    instance = arguments[arguments.index("-id") + 1]
    if arguments[-1] == "start":
        start(mode, instance, arguments[:-1])
    elif arguments[-1] == "delete":
        with Path(f"{mode}.calls").open("a") as file:
            file.write(f"delete {instance}\n")
        sys.stdout.buffer.write(task_pb2.DeleteResponse(exit_status=137).SerializeToString())
    else:
        options = json.loads(mode.read_text())
        spec = json.loads(Path("config.json").read_text())
        name = spec["annotations"]["io.kubernetes.cri.sandbox-id"] if options["groups"] else instance
        socket = f"{mode.parent}/{hashlib.sha256(name.encode()).hexdigest()[:20]}"
        asyncio.run(serve(mode, socket))


if __name__ == "__main__":
    main()
