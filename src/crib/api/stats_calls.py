"""The calls of runtime.v1.RuntimeService that ask what pods and containers use.

A reply is joined from encoded parts: who the figures are of is encoded once for each record. A list is sent,
or put together, batch by batch as it is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from crib.api.calls import Answer, Call, Stream, Verb
from crib.api.encoded_fields import encoded_field
from crib.api.list_replies import EncodedList, element_of, parts
from crib.api.translate import containers, sandboxes, stats
from crib.api.translate.containers import ContainerFilter
from crib.api.translate.sandboxes import SandboxFilter
from crib.engine.node import Node
from crib.engine.stats import ContainerFigures, PodFigures
from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tasks.lanes import stand_back

_LINUX = b"\x12"
"""PodSandboxStats.linux, field 2."""
_CONTAINERS = b"\x2a"
"""LinuxPodSandboxStats.containers, field 5."""


class StatsCalls:
    """Of one and of many, whole or in parts."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # In both messages the attributes are field 1, as elements of a list are.
        self._pods: EncodedList[SandboxRecord] = EncodedList(sandboxes.encode_attributes)
        self._containers: EncodedList[ContainerRecord] = EncodedList(containers.encode_attributes)

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        of_containers, of_pods = stats.decode_containers, stats.decode_pods
        return {
            "ContainerStats": Verb(pb.ContainerStatsRequest, containers.decode_id, self._container),
            "ListContainerStats": Verb(pb.ListContainerStatsRequest, of_containers, self._list_containers),
            "StreamContainerStats": Stream(
                pb.StreamContainerStatsRequest, of_containers, self._stream_containers
            ),
            "PodSandboxStats": Verb(pb.PodSandboxStatsRequest, sandboxes.decode_id, self._pod),
            "ListPodSandboxStats": Verb(pb.ListPodSandboxStatsRequest, of_pods, self._list_pods),
            "StreamPodSandboxStats": Stream(pb.StreamPodSandboxStatsRequest, of_pods, self._stream_pods),
        }

    async def _container(self, container: str) -> Answer:
        return element_of(self._encoded_container(await self._node.stats.container(container)))

    async def _pod(self, sandbox: str) -> Answer:
        return element_of(self._encoded_pod(await self._node.stats.pod(sandbox)))

    async def _list_containers(self, wanted: ContainerFilter | None) -> Answer:
        return b"".join([part async for part in self._stream_containers(wanted)])

    async def _list_pods(self, wanted: SandboxFilter | None) -> Answer:
        return b"".join([part async for part in self._stream_pods(wanted)])

    async def _stream_containers(self, wanted: ContainerFilter | None) -> AsyncIterator[bytes]:
        await stand_back()
        rows = list(self._node.containers.list())
        self._containers.keep_only(rows)
        asked = rows if wanted is None else [row for row in rows if wanted.matches(row)]
        async for batch in self._node.stats.containers(asked):
            for part in parts(element_of(self._encoded_container(figures)) for figures in batch):
                yield part

    async def _stream_pods(self, wanted: SandboxFilter | None) -> AsyncIterator[bytes]:
        await stand_back()
        rows = list(self._node.sandboxes.list())
        self._pods.keep_only(rows)
        asked = rows if wanted is None else [row for row in rows if wanted.matches(row)]
        async for batch in self._node.stats.pods(asked):
            for part in parts(element_of(self._encoded_pod(figures)) for figures in batch):
                yield part

    def _encoded_pod(self, found: PodFigures) -> bytes:
        """A PodSandboxStats."""
        linux = stats.encode_pod(found.sandbox, found.usage, found.nano_cores).SerializeToString()
        linux += b"".join(
            encoded_field(_CONTAINERS, self._encoded_container(figures)) for figures in found.containers
        )
        return self._pods.element(found.sandbox) + encoded_field(_LINUX, linux)

    def _encoded_container(self, found: ContainerFigures) -> bytes:
        """A ContainerStats."""
        figures = stats.encode_container(found.usage, found.nano_cores).SerializeToString()
        return self._containers.element(found.container) + figures
