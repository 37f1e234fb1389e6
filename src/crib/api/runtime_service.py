"""runtime.v1.RuntimeService: which decoding, verb and encoding make up each call."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping

from crib.api.calls import Answer, Call, Read, Stream, Verb, nothing, unbuilt
from crib.api.checkpoint_calls import CheckpointCalls
from crib.api.list_replies import EncodedList
from crib.api.metrics_calls import MetricsCalls
from crib.api.stats_calls import StatsCalls
from crib.api.stream_calls import StreamCalls, UrlFor
from crib.api.translate import containers, info, sandboxes, status
from crib.api.translate.containers import (
    ContainerFilter,
    CreateOrder,
    ExecSyncOrder,
    StopOrder,
    UpdateOrder,
)
from crib.api.translate.ledger import NOT_BUILT
from crib.api.translate.sandboxes import PodUpdateOrder, RunOrder, SandboxFilter, StatusQuery
from crib.engine.node import Node
from crib.model.container import ContainerRecord
from crib.model.errors import below
from crib.model.events import ContainerEvent
from crib.model.sandbox import SandboxRecord
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tasks.lanes import stand_back

NAME = "runtime.v1.RuntimeService"
CONTAINERS_STATUSES = b"\x1a"
"""Tag of that field of PodSandboxStatusResponse. In both replies the status is field 1, as elements of lists
are."""


class RuntimeService:
    """Pods, containers and the runtime itself."""

    def __init__(self, node: Node, version: str, url_for: UrlFor) -> None:
        self._node = node
        self._streams = StreamCalls(node.streams, url_for)
        self._stats = StatsCalls(node)
        self._version = status.encode_version(version).SerializeToString()
        self._sandboxes: EncodedList[SandboxRecord] = EncodedList(sandboxes.encode)
        self._containers: EncodedList[ContainerRecord] = EncodedList(containers.encode)
        self._sandbox_statuses: EncodedList[SandboxRecord] = EncodedList(sandboxes.encode_status)
        self._container_statuses: EncodedList[ContainerRecord] = EncodedList(containers.encode_status)
        self._event: ContainerEvent | None = None
        self._event_bytes = b""
        """Of that event."""

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        return {
            **self._runtime_calls(),
            **self._sandbox_calls(),
            **self._container_calls(),
            **self._stats.calls(),
            **MetricsCalls(self._node).calls(),
            **CheckpointCalls(self._node).calls(),
            **self._streams.calls(),
            **{name: self._unbuilt(name) for name in NOT_BUILT},
        }

    def _runtime_calls(self) -> dict[str, Call]:
        return {
            "Version": Read(pb.VersionRequest, nothing, lambda _: self._version),
            "Status": Verb(pb.StatusRequest, status.decode_status, self._status),
            "RuntimeConfig": Read(pb.RuntimeConfigRequest, nothing, self._runtime_config),
            "UpdateRuntimeConfig": Verb(
                pb.UpdateRuntimeConfigRequest, status.decode_update_config, self._update_runtime_config
            ),
            "GetContainerEvents": Stream(pb.GetEventsRequest, nothing, self._events),
        }

    def _sandbox_calls(self) -> dict[str, Call]:
        decode_id, decode_list = sandboxes.decode_id, sandboxes.decode_list
        return {
            "RunPodSandbox": Verb(pb.RunPodSandboxRequest, sandboxes.decode_run, self._run_sandbox),
            "StopPodSandbox": Verb(pb.StopPodSandboxRequest, decode_id, self._stop_sandbox),
            "RemovePodSandbox": Verb(pb.RemovePodSandboxRequest, decode_id, self._remove_sandbox),
            "PodSandboxStatus": Read(
                pb.PodSandboxStatusRequest, sandboxes.decode_status, self._sandbox_status
            ),
            "ListPodSandbox": Verb(pb.ListPodSandboxRequest, decode_list, self._list_sandboxes),
            "StreamPodSandboxes": Stream(pb.StreamPodSandboxesRequest, decode_list, self._stream_sandboxes),
            "UpdatePodSandboxResources": Verb(
                pb.UpdatePodSandboxResourcesRequest, sandboxes.decode_update, self._update_sandbox
            ),
        }

    def _container_calls(self) -> dict[str, Call]:
        decode_id, decode_list = containers.decode_id, containers.decode_list
        return {
            "CreateContainer": Verb(pb.CreateContainerRequest, containers.decode_create, self._create),
            "StartContainer": Verb(pb.StartContainerRequest, decode_id, self._start),
            "StopContainer": Verb(pb.StopContainerRequest, containers.decode_stop, self._stop),
            "RemoveContainer": Verb(pb.RemoveContainerRequest, decode_id, self._remove),
            "ListContainers": Verb(pb.ListContainersRequest, decode_list, self._list_containers),
            "StreamContainers": Stream(pb.StreamContainersRequest, decode_list, self._stream_containers),
            "ContainerStatus": Read(
                pb.ContainerStatusRequest, containers.decode_status, self._container_status
            ),
            "ReopenContainerLog": Verb(pb.ReopenContainerLogRequest, decode_id, self._reopen_log),
            "ExecSync": Verb(pb.ExecSyncRequest, containers.decode_exec_sync, self._exec_sync),
            "UpdateContainerResources": Verb(
                pb.UpdateContainerResourcesRequest, containers.decode_update, self._update_container
            ),
        }

    @staticmethod
    def _unbuilt(name: str) -> Call:
        return unbuilt(name, NOT_BUILT[name], getattr(pb, f"{name}Request"))

    # the runtime

    async def _status(self, verbose: bool) -> Answer:
        found = await self._node.status()
        answer = status.encode_status(found)
        if verbose:
            answer.info.update(info.of_node(found, self._node.settings))
        return answer

    def _runtime_config(self, _: None) -> Answer:
        return status.encode_config(self._node.cgroup_driver)

    async def _update_runtime_config(self, pod_cidr: str) -> Answer:
        if pod_cidr:
            with below("runtime_config.network_config"):
                await self._node.configure_network(pod_cidr)
        return pb.UpdateRuntimeConfigResponse()

    async def _events(self, _: None) -> AsyncIterator[Answer | None]:
        subscription = self._node.events.subscribe()
        try:
            yield None
            await stand_back()  # with many readers each event costs as much as a call of each
            async for event in subscription.events():
                yield self._encoded_event(event)
        finally:
            self._node.events.unsubscribe(subscription)

    def _encoded_event(self, event: ContainerEvent) -> Answer:
        """Once for all readers: they are mostly at the same one."""
        if event is not self._event:
            self._event, self._event_bytes = event, containers.encode_event(event).SerializeToString()
        return self._event_bytes

    # sandboxes

    async def _run_sandbox(self, wanted: RunOrder) -> Answer:
        with below("config"):
            made = await self._node.sandboxes.run(wanted.config, wanted.handler)
        return pb.RunPodSandboxResponse(pod_sandbox_id=made)

    async def _stop_sandbox(self, sandbox: str) -> Answer:
        await self._node.sandboxes.stop(sandbox)
        return pb.StopPodSandboxResponse()

    async def _remove_sandbox(self, sandbox: str) -> Answer:
        await self._node.sandboxes.remove(sandbox)
        return pb.RemovePodSandboxResponse()

    def _sandbox_status(self, query: StatusQuery) -> Answer:
        record = self._node.sandboxes.get(query.id)
        of_containers = map(self._container_statuses.element, self._node.containers.of_sandbox(record.id))
        rest = pb.PodSandboxStatusResponse(
            info=self._sandbox_info(record) if query.verbose else None, timestamp=time.time_ns()
        )
        return b"".join(
            (
                self._sandbox_statuses.element(record),
                *(CONTAINERS_STATUSES + element[1:] for element in of_containers),
                rest.SerializeToString(),
            )
        )

    def _sandbox_info(self, record: SandboxRecord) -> Mapping[str, str]:
        return info.of_sandbox(record, self._node.sandboxes.spec(record), self._node.stages(record.id))

    async def _update_sandbox(self, wanted: PodUpdateOrder) -> Answer:
        with below("resources"):
            await self._node.sandboxes.update(wanted.id, wanted.overhead, wanted.resources)
        return pb.UpdatePodSandboxResourcesResponse()

    async def _list_sandboxes(self, wanted: SandboxFilter | None) -> Answer:
        rows = await self._listed_sandboxes(wanted)
        if wanted is not None:
            return self._sandboxes.some(rows)
        self._sandbox_statuses.keep_only(rows)
        return self._sandboxes.whole(rows)

    async def _stream_sandboxes(self, wanted: SandboxFilter | None) -> AsyncIterator[Answer]:
        for part in self._sandboxes.parts(await self._listed_sandboxes(wanted)):
            yield part

    async def _listed_sandboxes(self, wanted: SandboxFilter | None) -> list[SandboxRecord]:
        rows = self._node.sandboxes.list()
        return await self._sandboxes.prepared(row for row in rows if wanted is None or wanted.matches(row))

    # containers

    async def _create(self, wanted: CreateOrder) -> Answer:
        with below("config", pod="sandbox_config"):
            made = await self._node.containers.create(wanted.sandbox_id, wanted.config)
        return pb.CreateContainerResponse(container_id=made)

    async def _start(self, container: str) -> Answer:
        await self._node.containers.start(container)
        return pb.StartContainerResponse()

    async def _stop(self, wanted: StopOrder) -> Answer:
        await self._node.containers.stop(wanted.id, wanted.timeout)
        return pb.StopContainerResponse()

    async def _remove(self, container: str) -> Answer:
        await self._node.containers.remove(container)
        return pb.RemoveContainerResponse()

    async def _list_containers(self, wanted: ContainerFilter | None) -> Answer:
        rows = await self._listed_containers(wanted)
        if wanted is not None:
            return self._containers.some(rows)
        self._container_statuses.keep_only(rows)
        return self._containers.whole(rows)

    async def _stream_containers(self, wanted: ContainerFilter | None) -> AsyncIterator[Answer]:
        for part in self._containers.parts(await self._listed_containers(wanted)):
            yield part

    async def _listed_containers(self, wanted: ContainerFilter | None) -> list[ContainerRecord]:
        rows = self._node.containers.list()
        return await self._containers.prepared(row for row in rows if wanted is None or wanted.matches(row))

    def _container_status(self, query: StatusQuery) -> Answer:
        record = self._node.containers.get(query.id)
        element = self._container_statuses.element(record)
        if not query.verbose:
            return element
        rest = pb.ContainerStatusResponse(info=info.of_container(record, self._node.containers.spec(record)))
        return element + rest.SerializeToString()

    async def _reopen_log(self, container: str) -> Answer:
        await self._node.containers.reopen_log(container)
        return pb.ReopenContainerLogResponse()

    async def _exec_sync(self, wanted: ExecSyncOrder) -> Answer:
        result = await self._node.containers.exec_sync(wanted.id, wanted.command)
        return containers.encode_exec_sync(result)

    async def _update_container(self, wanted: UpdateOrder) -> Answer:
        with below("linux"):
            await self._node.containers.update(wanted.id, wanted.change)
        return pb.UpdateContainerResourcesResponse()
