"""Sandboxes without containers, many at a time: what namespaces, files and the pod network cost."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from crib.bench.lives import cpu_seconds
from crib.client import pods
from crib.stubs.runtime.v1.api_pb2 import RemovePodSandboxRequest, StopPodSandboxRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from crib.bench.figures import Samples
    from crib.bench.target import BenchTarget


class BenchSandboxes:
    """One runtime's sandboxes, made and ended `at_once` at a time."""

    def __init__(self, target: BenchTarget, at_once: int, samples: Samples) -> None:
        self._target = target
        self._at_once = at_once
        self._samples = samples

    async def live(self, count: int) -> None:
        """Run `count` of them, then stop them, then remove them; a sample of each call."""
        made: list[str] = []

        async def run(_: str) -> None:
            sandbox = self._target.sandbox_config()
            pod_id = (await pods.run_sandbox(self._target.connection, sandbox, self._target.handler)).id
            self._target.alive.add(pod_id)
            made.append(pod_id)

        await self._phase("RunPodSandbox", run, [""] * count)
        await self._phase("StopPodSandbox", self._stop, made)
        await self._phase("RemovePodSandbox", self._remove, made)

    async def _stop(self, pod_id: str) -> None:
        connection = self._target.connection
        await connection.call(connection.runtime.StopPodSandbox, StopPodSandboxRequest(pod_sandbox_id=pod_id))

    async def _remove(self, pod_id: str) -> None:
        connection = self._target.connection
        await connection.call(
            connection.runtime.RemovePodSandbox, RemovePodSandboxRequest(pod_sandbox_id=pod_id)
        )
        self._target.alive.discard(pod_id)

    async def _phase(self, name: str, work: Callable[[str], Awaitable[None]], pods: Iterable[str]) -> None:
        label = f"{name}, {self._at_once} at once"
        left = list(pods)
        count = len(left)

        async def worker() -> None:
            while left:
                pod = left.pop()
                began = time.perf_counter()
                await work(pod)
                self._samples.add(label, "ms", self._target.name, (time.perf_counter() - began) * 1000)

        began, cpu = time.perf_counter(), cpu_seconds()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(worker())
        took, used = time.perf_counter() - began, cpu_seconds() - cpu
        self._samples.add(f"{label}, for one pod", "ms", self._target.name, took * 1000 / count)
        self._samples.add(f"{label}, machine CPU for one pod", "ms", self._target.name, used * 1000 / count)
