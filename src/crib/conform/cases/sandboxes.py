"""The life of pod sandboxes: RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus."""

from __future__ import annotations

import time

from crib.client import pods
from crib.client.errors import ClientError
from crib.conform.case import Level, case
from crib.conform.expect import equal, refused, true
from crib.conform.trial import NOBODY, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_SKEW = 5 * 10**9
"""Nanoseconds by which a time of the runtime may be off."""
_STOP_IS_IDEMPOTENT = "CRI: StopPodSandbox is idempotent and must not fail for what was reclaimed"
_REMOVE_IS_IDEMPOTENT = "CRI: RemovePodSandbox is idempotent and must not fail for what was removed"


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: RunPodSandbox creates and starts a sandbox; it is ready on success",
    "RunPodSandboxRequest.config",
    "PodSandboxConfig.metadata,linux",
    "PodSandboxMetadata.name,uid,namespace,attempt",
    "LinuxPodSandboxConfig.security_context",
    "RunPodSandboxResponse.pod_sandbox_id",
    "PodSandboxStatusResponse.status",
    "PodSandboxStatus.id,metadata,state,created_at",
)
async def is_ready_with_its_metadata(trial: Trial) -> None:
    """A sandbox is ready when the call returns; its status has its id, metadata and time of creation."""
    config = trial.pod_config()
    config.metadata.attempt = 3
    before = time.time_ns()
    pod = await trial.pod(config)
    status = await trial.pod_status(pod.id)
    true("RunPodSandbox: pod_sandbox_id", pod.id, "an id", pod.id)
    equal("PodSandboxStatus: id", status.id, pod.id)
    equal("PodSandboxStatus: state", status.state, pb.SANDBOX_READY)
    equal("PodSandboxStatus: metadata", status.metadata, config.metadata)
    now = time.time_ns()
    true(
        "PodSandboxStatus: created_at",
        before - _SKEW < status.created_at < now + _SKEW,
        f"between {before} and {now}",
        status.created_at,
    )


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: labels and annotations are returned as they were given",
    "PodSandboxConfig.labels,annotations",
    "PodSandboxStatus.labels,annotations",
    "PodSandbox.labels,annotations,metadata,state,created_at,id",
)
async def keeps_labels_and_annotations(trial: Trial) -> None:
    """Status and list have the labels and annotations of the config, unchanged."""
    config = trial.pod_config()
    config.labels["conform/empty"] = ""
    config.annotations["conform/long"] = "x" * 4096 + " \n\t'\"{}é"
    pod = await trial.pod(config)
    status = await trial.pod_status(pod.id)
    request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(id=pod.id))
    (item,) = (await trial.call(trial.runtime.ListPodSandbox, request)).items
    for where, found in (("PodSandboxStatus", status), ("ListPodSandbox", item)):
        equal(f"{where}: labels", dict(found.labels), dict(config.labels))
        equal(f"{where}: annotations", dict(found.annotations), dict(config.annotations))
        equal(f"{where}: metadata", found.metadata, config.metadata)
        equal(f"{where}: created_at", found.created_at, status.created_at)
        equal(f"{where}: state", found.state, pb.SANDBOX_READY)


@case(
    "RunPodSandbox",
    Level.MUST,
    "kubelet: a repeated RunPodSandbox after a time-out must not make a second sandbox",
    "PodSandboxMetadata.name,uid,namespace,attempt",
)
async def a_repeated_call_makes_no_second_sandbox(trial: Trial) -> None:
    """The same config again gives the same sandbox or an error, never one more."""
    config = trial.pod_config()
    pod = await trial.pod(config)
    try:
        again = (await pods.run_sandbox(trial.connection, config, trial.subject.handler)).id
    except ClientError:
        again = pod.id
    equal("RunPodSandbox of the same config again: pod_sandbox_id", again, pod.id)
    selector = {"io.kubernetes.pod.uid": config.metadata.uid}
    request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=selector))
    items = (await trial.call(trial.runtime.ListPodSandbox, request)).items
    equal("ListPodSandbox by the pod's uid", [item.id for item in items], [pod.id])


@case(
    "RunPodSandbox",
    Level.MUST,
    "kubelet: a pod whose sandbox ended gets a new one with the next attempt",
    "PodSandboxMetadata.attempt",
)
async def the_next_attempt_is_another_sandbox(trial: Trial) -> None:
    """A pod with the next attempt runs beside the stopped sandbox of the one before."""
    config = trial.pod_config()
    first = await trial.pod(config)
    await trial.stop_pod(first.id)
    config.metadata.attempt = 1
    second = await trial.pod(config)
    true("RunPodSandbox of attempt 1", second.id != first.id, "another id", second.id)
    equal(
        "PodSandboxStatus: state of attempt 0", (await trial.pod_status(first.id)).state, pb.SANDBOX_NOTREADY
    )
    equal("PodSandboxStatus: attempt of attempt 1", (await trial.pod_status(second.id)).metadata.attempt, 1)


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: a sandbox is named by all four parts",
    "PodSandboxMetadata.uid,namespace",
)
async def one_name_in_two_namespaces_is_two_pods(trial: Trial) -> None:
    """Pods of one name in two namespaces, or with two uids, are different pods."""
    configs = [trial.pod_config() for _ in range(3)]
    for config in configs[1:]:
        config.metadata.name = configs[0].metadata.name
    configs[2].metadata.namespace = "crib-conform-2"
    ids = {(await trial.pod(config)).id for config in configs}
    equal("RunPodSandbox of one name three times: how many sandboxes", len(ids), 3)


@case(
    "RunPodSandbox",
    Level.MUST,
    "kubelet: a pod may be made again once it was removed",
    "PodSandboxMetadata.name",
)
async def a_name_is_free_after_removal(trial: Trial) -> None:
    """The same config makes a new sandbox after the old one was removed."""
    config = trial.pod_config()
    first = await trial.pod(config)
    await trial.stop_pod(first.id)
    await trial.remove_pod(first.id)
    second = await trial.pod(config)
    equal("PodSandboxStatus: state", (await trial.pod_status(second.id)).state, pb.SANDBOX_READY)


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: PodSandboxConfig.metadata names the sandbox",
    "PodSandboxConfig.metadata",
)
async def without_metadata_is_refused(trial: Trial) -> None:
    """A config without metadata is refused."""
    config = trial.pod_config()
    config.ClearField("metadata")
    await refused("RunPodSandbox without metadata", trial.pod(config))


@case(
    "RunPodSandbox",
    Level.MUST,
    "CRI: an unknown runtime_handler must fail (KEP-585)",
    "RunPodSandboxRequest.runtime_handler",
)
async def an_unknown_handler_is_refused(trial: Trial) -> None:
    """A handler that the runtime does not have is an error, and no sandbox is left."""
    config = trial.pod_config()
    await refused("RunPodSandbox with an unknown handler", trial.pod(config, handler="no-such-handler"))
    selector = {"io.kubernetes.pod.uid": config.metadata.uid}
    request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=selector))
    items = (await trial.call(trial.runtime.ListPodSandbox, request)).items
    equal("ListPodSandbox by the pod's uid", [item.id for item in items], [])


@case(
    "StopPodSandbox",
    Level.MUST,
    "CRI: StopPodSandbox stops all that runs in the sandbox",
    "StopPodSandboxRequest.pod_sandbox_id",
    "PodSandboxStatus.state",
    "ContainerStatus.state,finished_at",
)
async def ends_containers_and_is_not_ready(trial: Trial) -> None:
    """A stopped sandbox is not ready, and its containers have exited."""
    pod = await trial.pod()
    config = trial.config("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
    box = await trial.box(config, pod)
    await trial.stop_pod(pod.id)
    equal("PodSandboxStatus: state", (await trial.pod_status(pod.id)).state, pb.SANDBOX_NOTREADY)
    status = await trial.exited(box.id)
    true("ContainerStatus: finished_at", status.finished_at > 0, "a time", status.finished_at)


@case("StopPodSandbox", Level.MUST, _STOP_IS_IDEMPOTENT, "StopPodSandboxRequest.pod_sandbox_id")
async def may_be_repeated(trial: Trial) -> None:
    """A stop of a stopped sandbox succeeds."""
    pod = await trial.pod()
    for _ in range(3):
        await trial.stop_pod(pod.id)


@case("StopPodSandbox", Level.SHOULD, _STOP_IS_IDEMPOTENT, "StopPodSandboxRequest.pod_sandbox_id")
async def of_a_sandbox_that_is_gone_succeeds(trial: Trial) -> None:
    """A stop of a sandbox that was removed, or never was, succeeds."""
    pod = await trial.pod()
    await trial.stop_pod(pod.id)
    await trial.remove_pod(pod.id)
    await trial.stop_pod(pod.id)
    await trial.stop_pod(NOBODY)


@case(
    "StopPodSandbox",
    Level.MUST,
    "kubelet: no container starts in a sandbox that ended",
    "CreateContainerRequest.pod_sandbox_id",
)
async def no_container_can_be_made_in_it_after(trial: Trial) -> None:
    """CreateContainer in a stopped sandbox fails."""
    pod = await trial.pod()
    await trial.stop_pod(pod.id)
    await refused("CreateContainer in a stopped sandbox", trial.box(pod=pod))


@case(
    "RemovePodSandbox",
    Level.MUST,
    "CRI: RemovePodSandbox removes the sandbox with its containers",
    "RemovePodSandboxRequest.pod_sandbox_id",
)
async def takes_containers_along(trial: Trial) -> None:
    """After the removal neither the sandbox nor its containers are known."""
    pod = await trial.pod()
    box = await trial.box(pod=pod)
    await trial.stop(box.id)
    await trial.stop_pod(pod.id)
    await trial.remove_pod(pod.id)
    await refused("PodSandboxStatus of a removed sandbox", trial.pod_status(pod.id), "NOT_FOUND")
    await refused("ContainerStatus of its container", trial.status(box.id), "NOT_FOUND")


@case(
    "RemovePodSandbox",
    Level.MUST,
    "CRI: running containers must be forcibly terminated and removed",
    "RemovePodSandboxRequest.pod_sandbox_id",
)
async def of_a_running_sandbox_ends_its_containers(trial: Trial) -> None:
    """The removal of a sandbox with a running container succeeds, and the container is gone."""
    pod = await trial.pod()
    box = await trial.box(pod=pod)
    await trial.remove_pod(pod.id)
    await refused("ContainerStatus of its container", trial.status(box.id), "NOT_FOUND")


@case("RemovePodSandbox", Level.MUST, _REMOVE_IS_IDEMPOTENT, "RemovePodSandboxRequest.pod_sandbox_id")
async def may_be_repeated_and_of_nothing(trial: Trial) -> None:
    """The removal of a sandbox that was removed, or never was, succeeds."""
    pod = await trial.pod()
    await trial.stop_pod(pod.id)
    for _ in range(3):
        await trial.remove_pod(pod.id)
    await trial.remove_pod(NOBODY)


@case(
    "PodSandboxStatus",
    Level.MUST,
    "kubelet: NOT_FOUND means that a sandbox is gone",
    "PodSandboxStatusRequest.pod_sandbox_id",
)
async def of_an_unknown_sandbox_is_not_found(trial: Trial) -> None:
    """The status of a sandbox that never was is NOT_FOUND."""
    await refused("PodSandboxStatus of an unknown id", trial.pod_status(NOBODY), "NOT_FOUND")


@case(
    "PodSandboxStatus", Level.SHOULD, "crictl: ids may be shortened", "PodSandboxStatusRequest.pod_sandbox_id"
)
async def takes_the_beginning_of_an_id(trial: Trial) -> None:
    """The first 13 characters of an id name the sandbox."""
    pod = await trial.pod()
    equal("PodSandboxStatus by the beginning of an id: id", (await trial.pod_status(pod.id[:13])).id, pod.id)


@case("PodSandboxStatus", Level.SHOULD, "CRI: an id is required", "PodSandboxStatusRequest.pod_sandbox_id")
async def of_no_id_is_refused(trial: Trial) -> None:
    """An empty id is an error, not the only sandbox there is."""
    await trial.pod()
    await refused("PodSandboxStatus of an empty id", trial.pod_status(""))


@case(
    "PodSandboxStatus",
    Level.SHOULD,
    "CRI: PodSandboxStatusRequest.verbose",
    "PodSandboxStatusRequest.verbose",
    "PodSandboxStatusResponse.info",
)
async def has_info_for_those_who_ask(trial: Trial) -> None:
    """The status has info when verbose is set, and none otherwise."""
    pod = await trial.pod()
    for verbose in (False, True):
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=verbose)
        info = (await trial.call(trial.runtime.PodSandboxStatus, request)).info
        equal(f"PodSandboxStatus: info with verbose={verbose}", bool(info), verbose)


@case(
    "PodSandboxStatus",
    Level.OPTIONAL,
    "KEP-3386: evented PLEG",
    "PodSandboxStatusResponse.containers_statuses,timestamp",
)
async def has_the_statuses_of_its_containers(trial: Trial) -> None:
    """A runtime with a timestamp in it tells the statuses of the sandbox's containers as well."""
    pod = await trial.pod()
    box = await trial.box(pod=pod)
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id)
    reply = await trial.call(trial.runtime.PodSandboxStatus, request)
    if not reply.timestamp:
        return
    equal("PodSandboxStatus: containers_statuses", [one.id for one in reply.containers_statuses], [box.id])
    equal("PodSandboxStatus: its state", reply.containers_statuses[0].state, pb.CONTAINER_RUNNING)


@case(
    "UpdatePodSandboxResources",
    Level.OPTIONAL,
    "KEP-1287: in-place update of pod resources",
    "UpdatePodSandboxResourcesRequest.pod_sandbox_id,overhead,resources",
)
async def of_a_running_pod_is_accepted(trial: Trial) -> None:
    """New resources of a running pod are accepted; those of an unknown one are an error."""
    pod = await trial.pod()
    resources = pb.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=256 << 20)
    request = pb.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod.id, resources=resources, overhead=pb.LinuxContainerResources()
    )
    await trial.call(trial.runtime.UpdatePodSandboxResources, request)
    request.pod_sandbox_id = NOBODY
    await refused(
        "UpdatePodSandboxResources of an unknown pod",
        trial.call(trial.runtime.UpdatePodSandboxResources, request),
        "NOT_FOUND",
    )
