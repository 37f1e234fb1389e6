"""CheckpointContainer, CheckpointPod and RestorePod."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import TypeVar

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, refused
from crib.conform.trial import NOBODY, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_Answer = TypeVar("_Answer")


@case(
    "CheckpointContainer",
    Level.OPTIONAL,
    "KEP-2008: forensic container checkpointing",
    "CheckpointContainerRequest.container_id,location,timeout",
)
async def of_an_unknown_container_is_an_error(trial: Trial) -> None:
    """A checkpoint of a container that never was is an error."""
    path = os.path.join(trial.directory(), "checkpoint.tar")
    request = pb.CheckpointContainerRequest(container_id=NOBODY, location=path, timeout=5)
    await _fails_if_offered(trial.call(trial.runtime.CheckpointContainer, request))


@case(
    "CheckpointPod",
    Level.OPTIONAL,
    "KEP-5823: pod-level checkpoint and restore",
    "CheckpointPodRequest.pod_sandbox_id,output_path,container_ids,options",
)
async def of_an_unknown_pod_is_no_checkpoint(trial: Trial) -> None:
    """A checkpoint of a sandbox that never was is an error."""
    path = trial.directory()
    request = pb.CheckpointPodRequest(pod_sandbox_id=NOBODY, output_path=path, container_ids=[NOBODY])
    await _fails_if_offered(trial.call(trial.runtime.CheckpointPod, request))


@case(
    "RestorePod",
    Level.OPTIONAL,
    "KEP-5823: pod-level checkpoint and restore",
    "RestorePodRequest.checkpoint_path,config,runtime_handler,container_configs",
)
async def of_nothing_restores_no_pod(trial: Trial) -> None:
    """A restore from a path where nothing is is an error, and makes no pod."""
    path, config = os.path.join(trial.directory(), "missing"), trial.pod_config()
    request = pb.RestorePodRequest(
        checkpoint_path=path,
        config=config,
        runtime_handler=trial.subject.handler,
        container_configs=[trial.config()],
    )
    await _fails_if_offered(trial.call(trial.runtime.RestorePod, request))
    selector = {"io.kubernetes.pod.uid": config.metadata.uid}
    listed = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=selector))
    found = (await trial.call(trial.runtime.ListPodSandbox, listed)).items
    equal("ListPodSandbox by its uid", [pod.id for pod in found], [])


async def _fails_if_offered(call: Awaitable[_Answer]) -> None:
    error = await refused("the call", call)
    if error.code == "UNIMPLEMENTED":
        raise NotApplicable(error.message)
