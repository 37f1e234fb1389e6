"""A pod's life under a stopwatch, one call after the other; and many lives at a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from crib.client import pods
from crib.client.errors import RuntimeFailure
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerStatusRequest,
    CreateContainerRequest,
    ExecSyncRequest,
    PodSandboxStatusRequest,
    RemoveContainerRequest,
    RemovePodSandboxRequest,
    StartContainerRequest,
    StopContainerRequest,
    StopPodSandboxRequest,
    VersionRequest,
)

if TYPE_CHECKING:
    from crib.bench.target import BenchTarget
    from crib.client.connection import UnaryMethod

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
READY = "pod ready (Run+Create+Start)"
GONE = "pod gone (stop and remove of both)"


class Life:
    """One pod of one runtime; `times` are the milliseconds of its calls."""

    def __init__(self, target: BenchTarget) -> None:
        self._target = target
        self.times: dict[str, float] = {}

    async def live(self, *, use: bool = True) -> dict[str, float]:
        """Make a pod, use it if asked to, end it. A life that breaks off is left to `BenchTarget.clean`."""
        pod_id, container_id = await self._begin()
        if use:
            await self._use(pod_id, container_id)
        await self._end(pod_id, container_id)
        return self.times

    async def _timed(
        self,
        name: str,
        method: UnaryMethod[_Request, _Response],
        request: _Request,
    ) -> _Response:
        began = time.perf_counter()
        reply = await self._target.connection.call(method, request)
        self.times[name] = (time.perf_counter() - began) * 1000
        return reply

    async def _begin(self) -> tuple[str, str]:
        runtime, target = self._target.connection.runtime, self._target
        await self._timed("Version", runtime.Version, VersionRequest())
        sandbox, container = target.sandbox_config(), target.container_config()
        began = time.perf_counter()
        pod_id = (await pods.run_sandbox(target.connection, sandbox, target.handler)).id
        self.times["RunPodSandbox"] = (time.perf_counter() - began) * 1000
        target.alive.add(pod_id)
        create = CreateContainerRequest(pod_sandbox_id=pod_id, config=container, sandbox_config=sandbox)
        made = await self._timed("CreateContainer", runtime.CreateContainer, create)
        start = StartContainerRequest(container_id=made.container_id)
        await self._timed("StartContainer", runtime.StartContainer, start)
        self.times[READY] = sum(
            self.times[name] for name in ("RunPodSandbox", "CreateContainer", "StartContainer")
        )
        return pod_id, made.container_id

    async def _use(self, pod_id: str, container_id: str) -> None:
        runtime = self._target.connection.runtime
        command = ExecSyncRequest(container_id=container_id, cmd=["true"], timeout=30)
        reply = await self._timed("ExecSync true", runtime.ExecSync, command)
        if reply.exit_code != 0:
            raise RuntimeFailure(f"{self._target.name}: true exited with {reply.exit_code} in the container")
        await self._timed(
            "ContainerStatus", runtime.ContainerStatus, ContainerStatusRequest(container_id=container_id)
        )
        await self._timed(
            "PodSandboxStatus", runtime.PodSandboxStatus, PodSandboxStatusRequest(pod_sandbox_id=pod_id)
        )

    async def _end(self, pod_id: str, container_id: str) -> None:
        runtime = self._target.connection.runtime
        stop = StopContainerRequest(container_id=container_id, timeout=0)
        await self._timed("StopContainer(0)", runtime.StopContainer, stop)
        await self._timed(
            "RemoveContainer", runtime.RemoveContainer, RemoveContainerRequest(container_id=container_id)
        )
        await self._timed(
            "StopPodSandbox", runtime.StopPodSandbox, StopPodSandboxRequest(pod_sandbox_id=pod_id)
        )
        await self._timed(
            "RemovePodSandbox", runtime.RemovePodSandbox, RemovePodSandboxRequest(pod_sandbox_id=pod_id)
        )
        self._target.alive.discard(pod_id)
        self.times[GONE] = sum(
            self.times[name]
            for name in ("StopContainer(0)", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox")
        )


def cpu_seconds() -> float:
    """CPU time of the whole machine so far, without idle and I/O wait (proc_stat(5))."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(word) for word in file.readline().split()[1:]]
    user, nice, system, _, _, irq, soft = fields[:7]
    return (user + nice + system + irq + soft) / 100  # USER_HZ is 100 on every Linux


async def many_lives(target: BenchTarget, count: int, at_once: int) -> tuple[float, float]:
    """`count` lives, `at_once` at a time: pods per second, and milliseconds of the machine's CPU for each."""
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await Life(target).live()

    began, cpu = time.perf_counter(), cpu_seconds()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
    return count / (time.perf_counter() - began), (cpu_seconds() - cpu) * 1000 / count
