"""The sandbox service of a shim (containerd, docs/sandbox.md): pods that the shim makes by itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence

from crib.backends.shim.nouns import Typed
from crib.backends.shim.task_client import ShimCalls, any_message
from crib.model.errors import CribError, NotBuilt, Unavailable
from crib.model.events import Stage
from crib.ocispec.infra import InfraInputs
from crib.stubs.shim import sandbox_pb2
from crib.ttrpc.client import TtrpcClient

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"
_STOP_SECONDS = 10
_STATUS_SECONDS = 5.0
"""For what is only told to people."""
_STAGES = 20
_NAME = 40
"""Stages and characters of their names that are taken from a shim."""
_log = logging.getLogger(__name__)


class SandboxService:
    """That of one shim."""

    def __init__(self, client: TtrpcClient, limit: Callable[[], float]) -> None:
        self._calls = ShimCalls(client, SERVICE, limit)

    async def is_offered(self, sandbox: str) -> bool:
        """Whether the shim has it. It need not know the sandbox yet. Unavailable when it says nothing."""
        try:
            await self._calls.call(
                "PingSandbox", sandbox_pb2.PingRequest(sandbox_id=sandbox), sandbox_pb2.PingResponse
            )
        except NotBuilt:
            return False
        except Unavailable:
            raise
        except CribError:
            return True  # it answers, and does not know the sandbox
        return True

    async def start(self, sandbox: str, bundle: str, inputs: InfraInputs, options: Typed | None) -> int:
        """Make and start it. The pid of what holds it, or 0."""
        made = sandbox_pb2.CreateSandboxRequest(
            sandbox_id=sandbox,
            bundle_path=bundle,
            netns_path=inputs.namespaces.get("network", ""),
            options=None if options is None else any_message(options),
            annotations=dict(inputs.config.annotations),
        )
        await self._calls.call("CreateSandbox", made, sandbox_pb2.CreateSandboxResponse)
        started = await self._calls.call(
            "StartSandbox",
            sandbox_pb2.StartSandboxRequest(sandbox_id=sandbox),
            sandbox_pb2.StartSandboxResponse,
        )
        return started.pid

    async def stages(self, sandbox: str) -> Sequence[Stage]:
        """What the shim tells of the parts of the start and their times; empty where it tells nothing.

        In `info` of its status, under `stages`: a JSON array of objects with `name`, `began` and `ended`, in
        nanoseconds since the epoch. Containerd leaves the content of `info` to shims.
        """
        asked = sandbox_pb2.SandboxStatusRequest(sandbox_id=sandbox, verbose=True)
        try:
            async with asyncio.timeout(_STATUS_SECONDS):
                said = await self._calls.call("SandboxStatus", asked, sandbox_pb2.SandboxStatusResponse)
            told = json.loads(said.info.get("stages", "[]"))
            spans = [(str(one["name"]), int(one["began"]), int(one["ended"])) for one in told[:_STAGES]]
            return [Stage(name[:_NAME], sandbox, at, end - at, "ok") for name, at, end in spans]
        except (CribError, TimeoutError, ValueError, KeyError, TypeError) as error:
            _log.debug("stages of sandbox %s: %s", sandbox, error)
            return ()

    async def stop(self, sandbox: str) -> None:
        """End it, and the shim."""
        stop = sandbox_pb2.StopSandboxRequest(sandbox_id=sandbox, timeout_secs=_STOP_SECONDS)
        await self._calls.call("StopSandbox", stop, sandbox_pb2.StopSandboxResponse)
        shutdown = sandbox_pb2.ShutdownSandboxRequest(sandbox_id=sandbox)
        await self._calls.call("ShutdownSandbox", shutdown, sandbox_pb2.ShutdownSandboxResponse)
