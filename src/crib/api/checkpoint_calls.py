"""The calls of runtime.v1.RuntimeService about checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from crib.api.calls import Answer, Call, Verb
from crib.api.translate import checkpoints as translate
from crib.engine.node import Node
from crib.engine.sandboxes.checkpoint import RestoreOrder
from crib.model.errors import InvalidRequest
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tasks.calls import deadline


class CheckpointCalls:
    """Running containers and pods written down, and made anew."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        decode_container, decode_pod = translate.decode_container, translate.decode_pod
        return {
            "CheckpointContainer": Verb(pb.CheckpointContainerRequest, decode_container, self._container),
            "CheckpointPod": Verb(pb.CheckpointPodRequest, decode_pod, self._pod),
            "RestorePod": Verb(pb.RestorePodRequest, translate.decode_restore, self._restore),
        }

    async def _container(self, wanted: translate.CheckpointOrder) -> Answer:
        await self._node.containers.checkpoint(wanted.id, wanted.location, wanted.timeout)
        return pb.CheckpointContainerResponse()

    async def _pod(self, wanted: translate.PodCheckpointOrder) -> Answer:
        _refuse_options(wanted.options)
        await self._node.sandboxes.checkpoint(wanted.id, wanted.directory, wanted.containers, _until())
        return pb.CheckpointPodResponse()

    async def _restore(self, wanted: RestoreOrder) -> Answer:
        _refuse_options(wanted.options)
        return translate.encode_restored(await self._node.restore_pod(wanted, _until()))


def _refuse_options(options: Sequence[tuple[str, str]]) -> None:
    """KEP-5823: an option that is not known is refused. There is none yet."""
    if options:
        raise InvalidRequest(f"{', '.join(name for name, _ in options)}: not known", field="options")


def _until() -> float:
    """The end of the call, on the monotonic clock. KEP-5823: callers must say how long they wait."""
    ends = deadline()
    if not ends:
        raise InvalidRequest("the call has no deadline, and this one must have one")
    return ends
