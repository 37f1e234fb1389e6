"""The sandbox service of the shim (proto/shim/sandbox.proto): the pod itself. And what a caller asks of its
guest.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable
from dataclasses import replace

from crib.host.threads import OURS, Job
from crib.stubs.shim import sandbox_pb2 as sandbox
from crib.stubs.shim.types_pb2 import Platform
from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.messages import typed
from crib.ttrpc.server import Handler, ServedCall
from crib.vm.shim.agent import GUEST
from crib.vm.shim.launch import read_recipe
from crib.vm.shim.pod import POWEROFF_TIME, VmPod
from crib.vm.shim.serving import stamp, whole

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"
PASSED_ON = ("Dial", "Read", "Write", "CloseStream", "Memory", "Info", "Written", "Users")
"""Methods of the guest's own service that this socket has too, for connections into the pod and for figures.
"""
_READ_TIME = 10.0


class VmSandboxService:
    """Of one pod."""

    def __init__(self, pod: VmPod, keeper: TaskKeeper, given: bytes, end: Callable[[], None]) -> None:
        """`given` is what the shim's start has read. `end` ends the shim."""
        self._pod = pod
        self._keeper = keeper
        self._given = given
        self._end = end

    def handlers(self) -> dict[str, Handler]:
        """By the names of methods."""
        return {
            "CreateSandbox": whole(self._keeper, sandbox.CreateSandboxRequest, self._create),
            "StartSandbox": whole(self._keeper, sandbox.StartSandboxRequest, self._start),
            "StopSandbox": whole(self._keeper, sandbox.StopSandboxRequest, self._stop),
            "ShutdownSandbox": whole(self._keeper, sandbox.ShutdownSandboxRequest, self._shutdown),
            "Platform": typed(sandbox.PlatformRequest, self._platform),
            "WaitSandbox": typed(sandbox.WaitSandboxRequest, self._wait),
            "SandboxStatus": typed(sandbox.SandboxStatusRequest, self._status),
            "PingSandbox": typed(sandbox.PingRequest, self._ping),
        }

    def guest_handlers(self) -> dict[str, Handler]:
        """Of `crib.vm.v1.Guest`."""
        return dict.fromkeys(PASSED_ON, self._passed_on)

    async def _passed_on(self, call: ServedCall) -> bytes:
        return await self._pod.agent.relay(GUEST, call.method, call.payload, call.limit)

    async def _create(self, request: sandbox.CreateSandboxRequest) -> sandbox.CreateSandboxResponse:
        given = request.options.SerializeToString() if request.HasField("options") else self._given
        job = Job("the options of the VM", limit=_READ_TIME)
        recipe = await OURS.run(job, read_recipe, given, self._pod.bundle)
        if request.netns_path:
            recipe = replace(recipe, plan=replace(recipe.plan, network=request.netns_path))
        await self._pod.make(recipe)
        return sandbox.CreateSandboxResponse()

    async def _start(self, _request: sandbox.StartSandboxRequest) -> sandbox.StartSandboxResponse:
        await self._pod.start()
        return sandbox.StartSandboxResponse(pid=self._pod.pid, created_at=stamp(self._pod.started))

    async def _stop(self, request: sandbox.StopSandboxRequest) -> sandbox.StopSandboxResponse:
        await self._pod.stop(min(request.timeout_secs or POWEROFF_TIME, POWEROFF_TIME))
        return sandbox.StopSandboxResponse()

    async def _shutdown(self, _request: sandbox.ShutdownSandboxRequest) -> sandbox.ShutdownSandboxResponse:
        await self._pod.stop(0)
        self._end()
        return sandbox.ShutdownSandboxResponse()

    async def _platform(self, _request: sandbox.PlatformRequest) -> sandbox.PlatformResponse:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        return sandbox.PlatformResponse(platform=Platform(os="linux", architecture=machine))

    async def _wait(self, _request: sandbox.WaitSandboxRequest) -> sandbox.WaitSandboxResponse:
        ended = await asyncio.shield(self._pod.ended)
        return sandbox.WaitSandboxResponse(exit_status=137, exited_at=stamp(ended.at))

    async def _status(self, request: sandbox.SandboxStatusRequest) -> sandbox.SandboxStatusResponse:
        pod = self._pod
        said = sandbox.SandboxStatusResponse(
            sandbox_id=request.sandbox_id,
            pid=pod.pid,
            state="SANDBOX_READY" if pod.started and not pod.ended.done() else "SANDBOX_NOTREADY",
        )
        if pod.started:
            said.created_at.CopyFrom(stamp(pod.started))
        if pod.ended.done():
            said.exited_at.CopyFrom(stamp(pod.ended.result().at))
        if request.verbose:
            said.info.update(pod.facts() | {"shim": str(os.getpid())})
        return said

    async def _ping(self, _request: sandbox.PingRequest) -> sandbox.PingResponse:
        return sandbox.PingResponse()
