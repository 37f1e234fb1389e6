"""The task service of the shim (proto/shim/task.proto): calls of containers, relayed to the agent in the
guest.

Whoever calls gives paths of the host and gets pids of the host: the one pid there is, qemu's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from crib.stubs.shim import task_pb2 as task
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.errors import CallFailed, PeerLost
from crib.ttrpc.messages import typed
from crib.ttrpc.server import Handler, ServedCall
from crib.vm.shim.agent import TASKS
from crib.vm.shim.carrying import ProcessKey, check_path
from crib.vm.shim.parts import give, take_back
from crib.vm.shim.pod import VmPod
from crib.vm.shim.processes import ProcessPaths, VmProcess
from crib.vm.shim.serving import gone, stamp, whole
from crib.vm.shim.spec import SHARE, directory, guest_process, guest_resources
from crib.wire.rpc_codes import Code

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
VERSION = "v3"
"""Of the service, as Connect tells it."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_WANTED = "wanted"
"""What the guest is told for a stream's path: the bytes go by Read and Write."""


class VmTaskService:
    """Of one pod."""

    def __init__(self, pod: VmPod, keeper: TaskKeeper, version: str, end: Callable[[], None]) -> None:
        """`end` ends the shim."""
        self._pod = pod
        self._keeper = keeper
        self._version = version
        self._end = end

    def handlers(self) -> dict[str, Handler]:
        """By the names of methods."""
        return {
            "Create": whole(self._keeper, task.CreateTaskRequest, self._create),
            "Start": whole(self._keeper, task.StartRequest, self._start),
            "Exec": whole(self._keeper, task.ExecProcessRequest, self._exec),
            "Delete": whole(self._keeper, task.DeleteRequest, self._delete),
            "State": typed(task.StateRequest, self._state),
            "Wait": typed(task.WaitRequest, self._wait),
            "CloseIO": typed(task.CloseIORequest, self._close_io),
            "Update": typed(task.UpdateTaskRequest, self._update),
            "Connect": typed(task.ConnectRequest, self._connect),
            "Shutdown": typed(task.ShutdownRequest, self._shutdown),
            **dict.fromkeys(("Kill", "Pids", "Pause", "Resume", "ResizePty", "Stats"), self._relayed),
        }

    async def _relayed(self, call: ServedCall) -> bytes:
        try:
            return await self._pod.agent.relay(TASKS, call.method, call.payload)
        except PeerLost as error:
            raise gone(error) from error

    # containers

    async def _create(self, request: task.CreateTaskRequest) -> task.CreateTaskResponse:
        pod, container = self._pod, request.id
        if not _ID.fullmatch(container):
            raise CallFailed(Code.INVALID_ARGUMENT, f"id: {container!r} is no container's id")
        if request.rootfs:
            raise CallFailed(Code.UNIMPLEMENTED, "rootfs: the root must be mounted in the bundle already")
        if request.checkpoint:
            raise CallFailed(Code.UNIMPLEMENTED, "checkpoint: a VM's containers are not restored from one")
        processes, key = pod.processes, ProcessKey(container, "")
        if processes.find(key) is not None:
            raise CallFailed(Code.ALREADY_EXISTS, f"container {container} is there already")
        stdio = _stdio(request)
        process = processes.add(key, stdio)
        try:
            await give(pod, container, request.bundle)
            await processes.open_streams(process)
            inside = task.CreateTaskRequest(
                id=container,
                bundle=f"{SHARE}/{directory(container)}",
                terminal=request.terminal,
                stdin=stdio.stdin and _WANTED,
                stdout=stdio.stdout and _WANTED,
                stderr=stdio.stderr and _WANTED,
            )
            process.pid = (await pod.agent.task("Create", inside, task.CreateTaskResponse)).pid
        except BaseException:
            processes.forget(process)
            await take_back(pod, container)
            raise
        processes.follow(process)
        return task.CreateTaskResponse(pid=pod.pid)

    async def _start(self, request: task.StartRequest) -> task.StartResponse:
        pod, process = self._pod, self._known(request.id, request.exec_id)
        if request.exec_id and not process.is_followed:
            await pod.processes.open_streams(process)
        process.pid = (await pod.agent.task("Start", request, task.StartResponse)).pid or process.pid
        pod.processes.follow(process)
        return task.StartResponse(pid=pod.pid)

    async def _exec(self, request: task.ExecProcessRequest) -> Empty:
        pod, key = self._pod, ProcessKey(request.id, request.exec_id)
        self._known(request.id, "")
        if not _ID.fullmatch(request.exec_id):
            raise CallFailed(Code.INVALID_ARGUMENT, f"exec_id: {request.exec_id!r} is no command's id")
        if pod.processes.find(key) is not None:
            raise CallFailed(Code.ALREADY_EXISTS, f"command {request.exec_id} is there already")
        stdio = _stdio(request)
        process = guest_process(json.loads(request.spec.value))
        inside = task.ExecProcessRequest(
            id=request.id,
            exec_id=request.exec_id,
            terminal=request.terminal,
            stdin=stdio.stdin and _WANTED,
            stdout=stdio.stdout and _WANTED,
            stderr=stdio.stderr and _WANTED,
            spec=AnyMessage(type_url=request.spec.type_url, value=json.dumps(process).encode()),
        )
        made = pod.processes.add(key, stdio)
        try:
            return await pod.agent.task("Exec", inside, Empty)
        except BaseException:
            pod.processes.forget(made)
            raise

    async def _delete(self, request: task.DeleteRequest) -> task.DeleteResponse:
        pod, process = self._pod, self._known(request.id, request.exec_id)
        try:
            said = await pod.agent.task("Delete", request, task.DeleteResponse)
        except (CallFailed, PeerLost) as error:
            if not process.ended.done() or (isinstance(error, CallFailed) and error.code != Code.NOT_FOUND):
                raise
            ended = process.ended.result()
            said = task.DeleteResponse(exit_status=ended.code, exited_at=stamp(ended.at))
        for one in (process,) if request.exec_id else pod.processes.of(request.id):
            pod.processes.forget(one)
        if not request.exec_id:
            await take_back(pod, request.id)
        said.pid = pod.pid
        return said

    async def _state(self, request: task.StateRequest) -> task.StateResponse:
        process = self._known(request.id, request.exec_id)
        try:
            said = await self._pod.agent.task("State", request, task.StateResponse)
        except PeerLost as error:
            raise gone(error) from error
        stdio = process.stdio
        said.stdin, said.stdout, said.stderr = stdio.stdin, stdio.stdout, stdio.stderr
        said.pid = self._pod.pid
        return said

    async def _wait(self, request: task.WaitRequest) -> task.WaitResponse:
        ended = await asyncio.shield(self._known(request.id, request.exec_id).ended)
        return task.WaitResponse(exit_status=ended.code, exited_at=stamp(ended.at))

    async def _close_io(self, request: task.CloseIORequest) -> Empty:
        process = self._known(request.id, request.exec_id)
        if request.stdin and not self._pod.processes.close_input(process):
            await self._pod.agent.task("CloseIO", request, Empty)
        return Empty()

    async def _update(self, request: task.UpdateTaskRequest) -> Empty:
        self._known(request.id, "")
        limits = guest_resources(json.loads(request.resources.value))
        inside = AnyMessage(type_url=request.resources.type_url, value=json.dumps(limits).encode())
        return await self._pod.agent.task(
            "Update", task.UpdateTaskRequest(id=request.id, resources=inside), Empty
        )

    async def _connect(self, _request: task.ConnectRequest) -> task.ConnectResponse:
        return task.ConnectResponse(shim_pid=os.getpid(), task_pid=self._pod.pid, version=self._version)

    async def _shutdown(self, request: task.ShutdownRequest) -> Empty:
        """Nothing where there are containers, as containerd's shims do."""
        pod = self._pod
        if request.now or not pod.is_made or pod.ended.done() or not pod.processes.containers:
            self._end()
        return Empty()

    def _known(self, container: str, exec_id: str) -> VmProcess:
        pod = self._pod
        found = pod.processes.find(ProcessKey(container, exec_id)) if pod.is_made else None
        if found is None:
            what = f"command {exec_id} in container {container}" if exec_id else f"container {container}"
            raise CallFailed(Code.NOT_FOUND, f"there is no {what} here")
        return found


def _stdio(request: task.CreateTaskRequest | task.ExecProcessRequest) -> ProcessPaths:
    for name in ("stdin", "stdout", "stderr"):
        check_path(name, getattr(request, name))
    return ProcessPaths(request.stdin, request.stdout, request.stderr, request.terminal)
