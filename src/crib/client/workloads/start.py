"""A pod's start from its plan: files, sandbox, init containers, containers. Its images are here already."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from crib.client import events, logs
from crib.client import pods as client_pods
from crib.client.errors import ClientError, PodFailure
from crib.client.workloads import files, pod_volumes, user_ids
from crib.client.workloads.beginning import begin
from crib.client.workloads.containers import start_container
from crib.client.workloads.probers import ProbeTarget, address_of

if TYPE_CHECKING:
    from crib.client.connection import Connection
    from crib.client.pods import Pod
    from crib.manifest.plan import ContainerPlan, Dirs, PodPlan
    from crib.stubs.runtime.v1.api_pb2 import AuthConfig

LAST_LINES = 20
"""Lines of a failed init container's log that are shown."""


class Listener(Protocol):
    """Who shows a person what goes on."""

    def note(self, text: str) -> None:
        """A line for people."""

    def waits_for(self, what: str) -> None:
        """What may take long now, in words for people; empty: nothing any more."""

    async def pull(self, connection: Connection, image: str, auth: AuthConfig | None) -> None:
        """Pull this image and show how far it is. ClientError when it cannot be had.

        `auth` is the pod's own credential; None: the daemon's count.
        """


class PodStart:
    """One pod's start, step by step; what was made is taken back when a step fails (unless `keep`)."""

    def __init__(
        self, connection: Connection, plan: PodPlan, dirs: Dirs, listener: Listener, *, keep: bool
    ) -> None:
        self._connection = connection
        self._plan = plan
        self._dirs = dirs
        self._listener = listener
        self._keep = keep
        self._pod: Pod | None = None
        self._address = ""

    async def start(self) -> Pod:
        """Do everything; returns the pod when its containers have been started. ClientError, OSError."""
        files.make(self._plan, self._dirs)
        try:
            attached = await pod_volumes.attach(self._connection, self._plan, self._dirs, self._listener.note)
            plan = await user_ids.choose(self._connection, attached)
            self._pod = await client_pods.run_sandbox(self._connection, plan.sandbox, plan.handler)
            await self._write_hosts()
            for container in plan.init_containers:
                await self._init(container)
            for container in plan.containers:
                await self._start(container)
        except BaseException as error:
            await self._take_back(error)
            raise
        return self._pod

    async def _write_hosts(self) -> None:
        if self._plan.hosts is not None:
            assert self._pod is not None
            files.write_hosts(self._plan.hosts, await client_pods.addresses(self._connection, self._pod.id))

    async def _start(self, plan: ContainerPlan) -> str:
        assert self._pod is not None
        container_id = await start_container(self._connection, self._pod, plan)
        if plan.behaviour.post_start or plan.behaviour.startup:
            self._address = self._address or await address_of(self._connection, self._pod.id)
            target = ProbeTarget(self._connection, container_id, self._address)
            self._listener.waits_for(f"waiting for the start of container {plan.name}")
            try:
                problem = await begin(target, plan)
            finally:
                self._listener.waits_for("")
            if problem:
                raise PodFailure(f"pod {self._plan.label}: container {plan.name}: {problem}")
        return container_id

    async def _init(self, plan: ContainerPlan) -> None:
        container_id = await self._start(plan)
        if plan.sidecar:
            return
        self._listener.waits_for(f"waiting for init container {plan.name}")
        try:
            status = await events.wait_exited(self._connection, container_id)
        finally:
            self._listener.waits_for("")
        if status.exit_code == 0:
            return
        for line in _last_lines(status.log_path):
            self._listener.note(f"  {plan.name}: {line}")
        reason = f" ({status.reason})" if status.reason not in ("", "Error") else ""
        raise PodFailure(
            f"pod {self._plan.label}: init container {plan.name} exited with {status.exit_code}{reason}"
        )

    async def _take_back(self, error: BaseException) -> None:
        """Remove what was made. Also when the command was interrupted, hence the shield."""
        if self._keep and isinstance(error, Exception):
            if self._pod is not None:
                self._listener.note(
                    f"kept pod {self._plan.label} ({self._pod.id[:12]}); remove it with crib rm --force"
                )
            return
        await asyncio.shield(self._discard())

    async def _discard(self) -> None:
        failure = await client_pods.discard(self._connection, self._pod.id) if self._pod else None
        if failure is not None:
            self._listener.note(f"crib: could not remove the remains of pod {self._plan.label}: {failure}")
            return
        try:
            await pod_volumes.detach(self._connection, self._dirs, self._plan.uid)
        except (ClientError, OSError) as error:
            self._listener.note(f"crib: could not remove {self._plan.directory}: {error}")


def _last_lines(path: str) -> list[str]:
    try:
        lines = list(logs.read(path, logs.WantedLines(tail=LAST_LINES)))
    except ClientError:
        return []
    return [line.content.decode(errors="replace") for line in lines]
