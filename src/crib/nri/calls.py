"""What a runtime calls, translated to the methods of a plugin."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from google.protobuf.message import Message

from crib.nri.changes import ContainerChanges, ContainerUpdates, NewContainerChanges
from crib.nri.identity import NriError
from crib.nri.plugin import AdjustmentRejected, NodePlugin, NriRuntime, events_of, mask_of
from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.stubs.nri.v1alpha1.api_pb2 import Event
from crib.ttrpc.messages import ServiceClient, typed
from crib.ttrpc.server import Handler, Services

PLUGIN_SERVICE = "nri.pkg.api.v1alpha1.Plugin"
MILLISECONDS = 1000.0
TOLD: dict[str, tuple[type[Message], str]] = {
    "RunPodSandbox": (messages.RunPodSandboxRequest, "run_pod_sandbox"),
    "PostUpdatePodSandbox": (messages.PostUpdatePodSandboxRequest, "post_update_pod_sandbox"),
    "StopPodSandbox": (messages.StopPodSandboxRequest, "stop_pod_sandbox"),
    "RemovePodSandbox": (messages.RemovePodSandboxRequest, "remove_pod_sandbox"),
    "PostCreateContainer": (messages.PostCreateContainerRequest, "post_create_container"),
    "StartContainer": (messages.StartContainerRequest, "start_container"),
    "PostStartContainer": (messages.PostStartContainerRequest, "post_start_container"),
    "PostUpdateContainer": (messages.PostUpdateContainerRequest, "post_update_container"),
    "RemoveContainer": (messages.RemoveContainerRequest, "remove_container"),
}
"""Calls whose answer says nothing: what is asked, and the method that is told the pod, or the pod and the
container.
"""
_log = logging.getLogger(__name__)


class PluginService:
    """The plugin's service, for one connection."""

    def __init__(self, plugin: NodePlugin, runtime: ServiceClient) -> None:
        self._plugin = plugin
        self._runtime = runtime
        self._synchronized = messages.SynchronizeRequest()
        self.configured: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        """What the plugin's `configure` has failed with."""
        self.was_shut_down = False

    @property
    def services(self) -> Services:
        """To be served."""
        handlers: dict[str, Handler] = {
            "Configure": typed(messages.ConfigureRequest, self._configure),
            "Synchronize": typed(messages.SynchronizeRequest, self._synchronize),
            "Shutdown": typed(messages.Empty, self._shutdown),
            "CreateContainer": typed(messages.CreateContainerRequest, self._create_container),
            "UpdateContainer": typed(messages.UpdateContainerRequest, self._update_container),
            "StopContainer": typed(messages.StopContainerRequest, self._stop_container),
            "UpdatePodSandbox": typed(messages.UpdatePodSandboxRequest, self._update_pod_sandbox),
            "StateChange": typed(messages.StateChangeEvent, self._state_change),
            "ValidateContainerAdjustment": typed(messages.ValidateContainerAdjustmentRequest, self._validate),
        }
        for call, (question, method) in TOLD.items():
            handlers[call] = self._told(question, method)
        return {PLUGIN_SERVICE: handlers}

    # the plugin's own life

    async def _configure(self, request: messages.ConfigureRequest) -> messages.ConfigureResponse:
        plugin, events = self._plugin, events_of(self._plugin)
        plugin.runtime = NriRuntime(
            request.runtime_name,
            request.runtime_version,
            request.NRI_version,
            request.registration_timeout / MILLISECONDS,
            request.request_timeout / MILLISECONDS,
            self._runtime,
        )
        _log.info("configured by %s %s", request.runtime_name, request.runtime_version)
        try:
            chosen = await plugin.configure(request.config)
            events = events if chosen is None else _of_those(frozenset(chosen), events)
        except Exception as error:
            self.configured.set_result(error)
            raise
        self.configured.set_result(None)
        return messages.ConfigureResponse(events=mask_of(events))

    async def _synchronize(self, request: messages.SynchronizeRequest) -> messages.SynchronizeResponse:
        self._synchronized.pods.extend(request.pods)
        self._synchronized.containers.extend(request.containers)
        if request.more:
            return messages.SynchronizeResponse(more=True)
        everything, self._synchronized = self._synchronized, messages.SynchronizeRequest()
        updates = ContainerUpdates()
        await self._plugin.synchronize(everything.pods, everything.containers, updates)
        return messages.SynchronizeResponse(update=updates.updates)

    async def _shutdown(self, _: messages.Empty) -> messages.Empty:
        self.was_shut_down = True
        await self._plugin.shutdown()
        return messages.Empty()

    # events that have answers

    async def _create_container(
        self, request: messages.CreateContainerRequest
    ) -> messages.CreateContainerResponse:
        changes = NewContainerChanges()
        await self._plugin.create_container(request.pod, request.container, changes)
        return messages.CreateContainerResponse(
            adjust=changes.adjust.message, update=changes.updates, evict=changes.evictions
        )

    async def _update_container(
        self, request: messages.UpdateContainerRequest
    ) -> messages.UpdateContainerResponse:
        changes = ContainerChanges()
        await self._plugin.update_container(request.pod, request.container, request.linux_resources, changes)
        return messages.UpdateContainerResponse(update=changes.updates, evict=changes.evictions)

    async def _stop_container(self, request: messages.StopContainerRequest) -> messages.StopContainerResponse:
        updates = ContainerUpdates()
        await self._plugin.stop_container(request.pod, request.container, updates)
        return messages.StopContainerResponse(update=updates.updates)

    async def _validate(
        self, request: messages.ValidateContainerAdjustmentRequest
    ) -> messages.ValidateContainerAdjustmentResponse:
        try:
            await self._plugin.validate_container_adjustment(request)
        except AdjustmentRejected as rejected:
            return messages.ValidateContainerAdjustmentResponse(reject=True, reason=str(rejected))
        return messages.ValidateContainerAdjustmentResponse()

    # events that have none

    async def _update_pod_sandbox(self, request: messages.UpdatePodSandboxRequest) -> messages.Empty:
        await self._plugin.update_pod_sandbox(
            request.pod, request.overhead_linux_resources, request.linux_resources
        )
        return messages.Empty()

    def _told(self, question: type[Message], method: str) -> Handler:
        async def handle(request: Any) -> messages.Empty:  # one of `TOLD`
            await self._tell(method, request)
            return messages.Empty()

        return typed(question, handle)

    async def _state_change(self, request: messages.StateChangeEvent) -> messages.Empty:
        method = Event.Name(request.event).lower() if request.event in Event.values() else ""
        if method in {told for _, told in TOLD.values()}:
            await self._tell(method, request)
        return messages.Empty()

    async def _tell(self, method: str, request: Any) -> None:
        about = (request.pod,) if method.endswith("_pod_sandbox") else (request.pod, request.container)
        await getattr(self._plugin, method)(*about)


def _of_those(
    chosen: frozenset[Event.ValueType], defined: frozenset[Event.ValueType]
) -> frozenset[Event.ValueType]:
    if not chosen:
        raise NriError("configure chose no event, and to a runtime that means all")
    if undefined := chosen - defined:
        names = ", ".join(Event.Name(event) for event in sorted(undefined))
        raise NriError(f"configure chose events that the plugin has no method for: {names}")
    return chosen
