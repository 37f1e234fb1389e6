"""Plugins that run and the runtime that they are connected to; the examples as modules."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from crib import nri
from crib.nri import messages
from crib.tasks.groups import Beside
from tests.fakes.nri_runtime import BOUND, FakeNriRuntime, JoinedPlugin

IDENTITY = nri.PluginIdentity("pin", "10")
EXAMPLES = Path(__file__).parents[3] / "examples" / "nri"


def example(name: str) -> ModuleType:
    """The program of this name as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


pin = example("pin_cpus")


class Everything(nri.NodePlugin):
    """Notes what it is told, and answers to everything."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.rejects = ""

    async def configure(self, config: str) -> None:
        self.told.append(("configure", config))

    async def synchronize(
        self,
        pods: Sequence[nri.PodSandbox],
        containers: Sequence[nri.Container],
        updates: nri.ContainerUpdates,
    ) -> None:
        self.told.append(("synchronize", [pod.id for pod in pods], [one.id for one in containers]))
        for container in containers:
            updates.update(container.id).set_cpu(cpus="0")

    async def shutdown(self) -> None:
        self.told.append(("shutdown",))

    async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.told.append(("run_pod_sandbox", pod))

    async def update_pod_sandbox(
        self, pod: nri.PodSandbox, overhead: nri.LinuxResources, resources: nri.LinuxResources
    ) -> None:
        self.told.append(("update_pod_sandbox", pod, overhead, resources))

    async def post_update_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.told.append(("post_update_pod_sandbox", pod))

    async def stop_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.told.append(("stop_pod_sandbox", pod))

    async def remove_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        self.told.append(("remove_pod_sandbox", pod))

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container, changes: nri.NewContainerChanges
    ) -> None:
        changes.adjust.add_env("POD", pod.name)
        changes.update("other").set_pids(9)
        changes.evict("third", "it is in the way")

    async def validate_container_adjustment(
        self, request: messages.ValidateContainerAdjustmentRequest
    ) -> None:
        if self.rejects:
            raise nri.AdjustmentRejected(self.rejects)

    async def post_create_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        self.told.append(("post_create_container", pod, container))

    async def start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        self.told.append(("start_container", pod, container))

    async def post_start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        self.told.append(("post_start_container", pod, container))

    async def update_container(
        self,
        pod: nri.PodSandbox,
        container: nri.Container,
        resources: nri.LinuxResources,
        changes: nri.ContainerChanges,
    ) -> None:
        changes.update(container.id).set_pids(resources.pids.limit + 1)
        changes.evict("third", "it is in the way")

    async def post_update_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        self.told.append(("post_update_container", pod, container))

    async def stop_container(
        self, pod: nri.PodSandbox, container: nri.Container, updates: nri.ContainerUpdates
    ) -> None:
        updates.update("other").set_cpu(cpus="0-1")

    async def remove_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        self.told.append(("remove_container", pod, container))


@contextlib.asynccontextmanager
async def running_plugin(
    plugin: nri.NodePlugin, path: Path, *, reconnect: bool = False
) -> AsyncIterator[tuple[FakeNriRuntime, asyncio.Task[None]]]:
    async with asyncio.timeout(BOUND), Beside() as beside:
        runtime = FakeNriRuntime(beside)
        async with await runtime.listen(path / "nri.sock"):
            options = nri.PluginOptions(IDENTITY, str(path / "nri.sock"), reconnect=reconnect)
            serving = beside.start("plugin", nri.serve(plugin, options))
            yield runtime, serving
            serving.cancel()
            await asyncio.wait((serving,))


@contextlib.asynccontextmanager
async def joined(plugin: nri.NodePlugin, path: Path, config: str = "") -> AsyncIterator[JoinedPlugin]:
    """Registered and configured."""
    async with running_plugin(plugin, path) as (runtime, _):
        found = await runtime.joined()
        await found.configure(config)
        yield found
