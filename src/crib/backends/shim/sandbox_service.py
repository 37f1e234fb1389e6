"""The sandbox service of a shim (containerd, docs/sandbox.md): pods that the shim makes by itself."""

from __future__ import annotations

from collections.abc import Callable

from crib.backends.shim.nouns import Typed
from crib.backends.shim.task_client import ShimCalls, any_message
from crib.model.errors import CribError, NotBuilt, Unavailable
from crib.ocispec.infra import InfraInputs
from crib.stubs.shim import sandbox_pb2
from crib.ttrpc.client import TtrpcClient

SERVICE = "containerd.runtime.sandbox.v1.Sandbox"
_STOP_SECONDS = 10


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

    async def stop(self, sandbox: str) -> None:
        """End it, and the shim."""
        stop = sandbox_pb2.StopSandboxRequest(sandbox_id=sandbox, timeout_secs=_STOP_SECONDS)
        await self._calls.call("StopSandbox", stop, sandbox_pb2.StopSandboxResponse)
        shutdown = sandbox_pb2.ShutdownSandboxRequest(sandbox_id=sandbox)
        await self._calls.call("ShutdownSandbox", shutdown, sandbox_pb2.ShutdownSandboxResponse)
