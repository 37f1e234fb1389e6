"""CheckpointContainer, CheckpointPod and RestorePod: their messages and what the verbs are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from crib.api.translate import checks, containers, limits, sandboxes
from crib.engine.sandboxes.checkpoint import RestoredPod, RestoreOrder
from crib.stubs.runtime.v1 import api_pb2 as pb


@dataclass(frozen=True, slots=True)
class CheckpointOrder:
    """CRI CheckpointContainerRequest; `timeout` is seconds for all of it, 0 for the daemon's own limit."""

    id: str
    location: str
    timeout: int


@dataclass(frozen=True, slots=True)
class PodCheckpointOrder:
    """CRI CheckpointPodRequest."""

    id: str
    directory: str
    containers: tuple[str, ...]
    options: tuple[tuple[str, str], ...]


def decode_container(message: pb.CheckpointContainerRequest) -> CheckpointOrder:
    return CheckpointOrder(
        checks.identifier(message.container_id, "container_id"),
        checks.absolute(message.location, "location"),
        checks.number(message.timeout, 0, containers.MAX_TIMEOUT, "timeout"),
    )


def decode_pod(message: pb.CheckpointPodRequest) -> PodCheckpointOrder:
    if not message.container_ids:
        checks.refuse("container_ids", "is empty")
    wanted = checks.at_most(message.container_ids, limits.MAX_CHECKPOINTED, "container_ids")
    return PodCheckpointOrder(
        checks.identifier(message.pod_sandbox_id, "pod_sandbox_id"),
        checks.absolute(message.output_path, "output_path"),
        tuple(checks.identifier(one, f"container_ids[{n}]") for n, one in enumerate(wanted)),
        tuple(sorted(message.options.items())),
    )


def decode_restore(message: pb.RestorePodRequest) -> RestoreOrder:
    if not message.HasField("config"):
        checks.refuse("config", "is missing")
    wanted = checks.at_most(message.container_configs, limits.MAX_CHECKPOINTED, "container_configs")
    return RestoreOrder(
        checks.absolute(message.checkpoint_path, "checkpoint_path"),
        sandboxes.config(message.config, "config"),
        checks.handler(message.runtime_handler),
        tuple(containers.config(one, f"container_configs[{n}]") for n, one in enumerate(wanted)),
        tuple(sorted(message.options.items())),
    )


def encode_restored(pod: RestoredPod) -> pb.RestorePodResponse:
    return pb.RestorePodResponse(
        pod_sandbox_id=pod.id,
        restored_containers=[
            pb.RestoredContainer(name=name, container_id=container) for name, container in pod.containers
        ],
    )
