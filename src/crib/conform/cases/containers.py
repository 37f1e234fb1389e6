"""The life of containers: CreateContainer, StartContainer, RemoveContainer, ContainerStatus."""

from __future__ import annotations

import os
import time

from crib.client import images
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.conform.case import Level, case
from crib.conform.expect import equal, refused, true
from crib.conform.trial import NOBODY, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_SKEW = 5 * 10**9
_OOM = 137


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: ContainerStatus",
    "CreateContainerRequest.pod_sandbox_id,config,sandbox_config",
    "ContainerConfig.metadata,image,labels,annotations,linux",
    "ContainerMetadata.name,attempt",
    "ImageSpec.image,user_specified_image",
    "LinuxContainerConfig.security_context",
    "CreateContainerResponse.container_id",
    "ContainerStatusRequest.container_id",
    "ContainerStatusResponse.status",
    "ContainerStatus.id,metadata,state,created_at,started_at,finished_at,labels,annotations",
)
async def is_created_with_what_was_asked(trial: Trial) -> None:
    """A created container's status has its id, metadata, labels and annotations, and no start or end."""
    config = trial.config()
    config.metadata.attempt = 2
    config.labels["conform/empty"] = ""
    config.annotations["conform/long"] = "x" * 4096
    container = await trial.create(config)
    status = await trial.status(container)
    equal("ContainerStatus: id", status.id, container)
    equal("ContainerStatus: state", status.state, pb.CONTAINER_CREATED)
    equal("ContainerStatus: metadata", status.metadata, config.metadata)
    equal("ContainerStatus: labels", dict(status.labels), dict(config.labels))
    equal("ContainerStatus: annotations", dict(status.annotations), dict(config.annotations))
    equal("ContainerStatus: started_at and finished_at", (status.started_at, status.finished_at), (0, 0))
    now = time.time_ns()
    true(
        "ContainerStatus: created_at",
        abs(now - status.created_at) < 60 * 10**9,
        f"about {now}",
        status.created_at,
    )


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: ContainerStatus.image_ref; kubelet's image garbage collection",
    "ContainerStatus.image,image_ref",
)
async def names_its_image(trial: Trial) -> None:
    """The status has the image as it was asked for and a reference to its content."""
    status = await trial.status(await trial.create())
    true("ContainerStatus: image.image", status.image.image, "a name", status.image)
    true("ContainerStatus: image_ref", status.image_ref, "a reference", status.image_ref)


@case(
    "CreateContainer",
    Level.SHOULD,
    "KEP-4216: ContainerStatus.image_id",
    "ContainerStatus.image_id",
    "Container.image_id",
)
async def has_the_id_of_its_image(trial: Trial) -> None:
    """image_id in status and list equals the id in ImageStatus."""
    container = await trial.create()
    image = await images.find(trial.connection, trial.subject.image)
    assert image is not None
    equal("ContainerStatus: image_id", (await trial.status(container)).image_id, image.id)
    request = pb.ListContainersRequest(filter=pb.ContainerFilter(id=container))
    (item,) = (await trial.call(trial.runtime.ListContainers, request)).containers
    equal("ListContainers: image_id", item.image_id, image.id)


@case("CreateContainer", Level.MUST, "CRI: StartContainer starts it", "StartContainerRequest.container_id")
async def nothing_runs_before_the_start(trial: Trial) -> None:
    """The program runs after StartContainer, not before."""
    path = trial.directory()
    config = trial.config("sh", "-c", "echo ran >/mnt/ran")
    config.mounts.add(container_path="/mnt", host_path=path)
    container = await trial.create(config)
    equal("files of the program before the start", os.listdir(path), [])
    await trial.start(container)
    await trial.exited(container)
    equal("files of the program after it", os.listdir(path), ["ran"])


@case(
    "StartContainer",
    Level.MUST,
    "CRI: StartContainer",
    "StartContainerRequest.container_id",
    "ContainerStatus.started_at,state",
)
async def is_running_when_it_returns(trial: Trial) -> None:
    """A started container is running, with the time of its start after that of its creation."""
    status = await (await trial.box()).status()
    equal("ContainerStatus: state", status.state, pb.CONTAINER_RUNNING)
    true(
        "ContainerStatus: started_at", status.started_at >= status.created_at > 0, "after created_at", status
    )
    equal("ContainerStatus: finished_at", status.finished_at, 0)


@case(
    "StartContainer", Level.MUST, "kubelet: a container is started once", "StartContainerRequest.container_id"
)
async def runs_a_container_once(trial: Trial) -> None:
    """A second start is an error or changes nothing; after the end it is an error."""
    box = await trial.box()
    before = (await box.status()).started_at
    try:
        await trial.start(box.id)
    except ClientError:
        pass  # both are allowed: the caller may repeat a call whose answer it did not get
    equal("ContainerStatus: started_at after a second start", (await box.status()).started_at, before)
    await trial.stop(box.id)
    await refused("StartContainer of an exited container", trial.start(box.id))


@case("StartContainer", Level.MUST, "kubelet: NOT_FOUND means gone", "StartContainerRequest.container_id")
async def of_an_unknown_container_is_not_found(trial: Trial) -> None:
    """A start of a container that never was is NOT_FOUND."""
    await refused("StartContainer of an unknown id", trial.start(NOBODY), "NOT_FOUND")


@case("StartContainer", Level.MUST, "kubelet: a missing program is told", "ContainerConfig.command")
async def a_missing_program_is_an_error(trial: Trial) -> None:
    """A program that the image does not have makes the create or the start fail."""
    await refused("CreateContainer and StartContainer", trial.box(trial.config("/no/such/program")))


@case(
    "ContainerStatus",
    Level.MUST,
    "CRI: ContainerStatus.exit_code",
    "ContainerStatus.exit_code,finished_at,state",
)
async def has_the_exit_code(trial: Trial) -> None:
    """A program's exit code is in the status, with the time of its end."""
    for code in (0, 3, 255):
        status = await trial.ended(trial.config("sh", "-c", f"exit {code}"))
        equal(f"ContainerStatus: exit_code of `exit {code}`", status.exit_code, code)
        true("ContainerStatus: finished_at", status.finished_at > 0, "a time", status.finished_at)


@case(
    "ContainerStatus",
    Level.SHOULD,
    "CRI: ContainerStatus",
    "ContainerStatus.created_at,started_at,finished_at",
)
async def its_times_are_in_their_order(trial: Trial) -> None:
    """A container is created, then started, then finished, also by the clock."""
    status = await trial.ended(trial.config("true"))
    times = (status.created_at, status.started_at, status.finished_at)
    true("ContainerStatus: its times", times == tuple(sorted(times)), "in their order", times)


@case(
    "ContainerStatus",
    Level.SHOULD,
    "kubelet: reason is shown as it is; CRI: one CamelCase word",
    "ContainerStatus.reason",
)
async def reasons_are_those_of_kubectl(trial: Trial) -> None:
    """The reason is Completed after 0, and Error after another code."""
    for code, reason in ((0, "Completed"), (3, "Error")):
        status = await trial.ended(trial.config("sh", "-c", f"exit {code}"))
        equal(f"ContainerStatus: reason of `exit {code}`", status.reason, reason)


@case(
    "ContainerStatus",
    Level.MUST,
    "CRI: ContainerStatus.reason OOMKilled; kubelet",
    "ContainerStatus.reason,exit_code",
    "LinuxContainerResources.memory_limit_in_bytes,memory_swap_limit_in_bytes",
    "LinuxContainerConfig.resources",
)
async def lack_of_memory_is_told(trial: Trial) -> None:
    """A container that the kernel kills for its memory limit has the reason OOMKilled and code 137."""
    config = trial.config("sh", "-c", "exec tail /dev/zero")
    config.linux.resources.memory_limit_in_bytes = 24 << 20
    config.linux.resources.memory_swap_limit_in_bytes = 24 << 20
    status = await trial.ended(config)
    equal("ContainerStatus: reason", status.reason, "OOMKilled")
    equal("ContainerStatus: exit_code", status.exit_code, _OOM)


@case(
    "ContainerStatus",
    Level.MUST,
    "kubelet: NOT_FOUND means that a container is gone",
    "ContainerStatusRequest.container_id",
)
async def of_an_unknown_container_is_not_found_either(trial: Trial) -> None:
    """The status of a container that never was is NOT_FOUND."""
    await refused("ContainerStatus of an unknown id", trial.status(NOBODY), "NOT_FOUND")


@case("ContainerStatus", Level.SHOULD, "crictl: ids may be shortened", "ContainerStatusRequest.container_id")
async def takes_the_beginning_of_its_id(trial: Trial) -> None:
    """The first 13 characters of an id name the container."""
    container = await trial.create()
    equal("ContainerStatus by the beginning of an id", (await trial.status(container[:13])).id, container)


@case(
    "ContainerStatus",
    Level.SHOULD,
    "CRI: ContainerStatusRequest.verbose",
    "ContainerStatusRequest.verbose",
    "ContainerStatusResponse.info",
)
async def has_info_when_verbose(trial: Trial) -> None:
    """The status has info when verbose is set, and none otherwise."""
    container = await trial.create()
    for verbose in (False, True):
        request = pb.ContainerStatusRequest(container_id=container, verbose=verbose)
        info = (await trial.call(trial.runtime.ContainerStatus, request)).info
        equal(f"ContainerStatus: info with verbose={verbose}", bool(info), verbose)


@case(
    "CreateContainer",
    Level.MUST,
    "kubelet: a repeated CreateContainer must not make a second container",
    "ContainerMetadata.name,attempt",
)
async def a_repeated_create_makes_no_second_container(trial: Trial) -> None:
    """The same config again gives the same container or an error, never one more."""
    pod, config = await trial.pod(), trial.config()
    first = await trial.create(config, pod)
    try:
        again = await trial.create(config, pod)
    except ClientError:
        again = first
    equal("CreateContainer of the same config again", again, first)
    equal("ListContainers of the pod", await _in_pod(trial, pod), {first})


@case(
    "CreateContainer",
    Level.MUST,
    "kubelet: a restart is a container with the next attempt",
    "ContainerMetadata.attempt",
)
async def the_next_attempt_is_another_container(trial: Trial) -> None:
    """The next attempt of a container can be made beside the ended one."""
    pod, config = await trial.pod(), trial.config("true")
    first = (await trial.ended(config, pod)).id
    config.metadata.attempt = 1
    config.log_path = "second.log"
    second = await trial.create(config, pod)
    equal("ListContainers of the pod", await _in_pod(trial, pod), {first, second})


async def _in_pod(trial: Trial, pod: Pod) -> set[str]:
    request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod.id))
    return {one.id for one in (await trial.call(trial.runtime.ListContainers, request)).containers}


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: CreateContainerRequest.pod_sandbox_id",
    "CreateContainerRequest.pod_sandbox_id",
)
async def in_an_unknown_sandbox_is_refused(trial: Trial) -> None:
    """A container in a sandbox that does not exist is an error."""
    shared = await trial.subject.shared_pod()
    await refused("CreateContainer in an unknown sandbox", trial.create(pod=Pod(NOBODY, shared.config)))


@case(
    "CreateContainer",
    Level.SHOULD,
    "kubelet reads the code NOT_FOUND",
    "CreateContainerRequest.pod_sandbox_id",
)
async def in_an_unknown_sandbox_is_not_found(trial: Trial) -> None:
    """The error for an unknown sandbox is NOT_FOUND."""
    shared = await trial.subject.shared_pod()
    call = trial.create(pod=Pod(NOBODY, shared.config))
    await refused("CreateContainer in an unknown sandbox", call, "NOT_FOUND")


@case("CreateContainer", Level.MUST, "CRI: ContainerConfig.image", "ImageSpec.image")
async def of_a_missing_image_is_refused(trial: Trial) -> None:
    """A container of an image that is not on the node is an error."""
    config = trial.config()
    config.image.image = "localhost/crib-conform/missing:1"
    await refused("CreateContainer of a missing image", trial.create(config))


@case(
    "CreateContainer",
    Level.MUST,
    "CRI: ContainerConfig.metadata names the container",
    "ContainerConfig.metadata",
)
async def of_no_name_is_refused(trial: Trial) -> None:
    """A config without metadata is refused."""
    config = trial.config()
    config.ClearField("metadata")
    await refused("CreateContainer without metadata", trial.create(config))


@case("CreateContainer", Level.SHOULD, "kubelet sends the image's id", "ImageSpec.image")
async def takes_an_image_by_its_id(trial: Trial) -> None:
    """A container can be made from the image's id."""
    image = await images.find(trial.connection, trial.subject.image)
    assert image is not None
    config = trial.config("true")
    config.image.image = image.id
    equal("ContainerStatus: exit_code", (await trial.ended(config)).exit_code, 0)


@case("RemoveContainer", Level.MUST, "CRI: RemoveContainer", "RemoveContainerRequest.container_id")
async def is_gone_after_removal(trial: Trial) -> None:
    """A removed container is unknown to status and list, and its name is free."""
    config = trial.config()
    container = await trial.create(config)
    await trial.remove(container)
    await refused("ContainerStatus of a removed container", trial.status(container), "NOT_FOUND")
    request = pb.ListContainersRequest(filter=pb.ContainerFilter(id=container))
    equal("ListContainers", list((await trial.call(trial.runtime.ListContainers, request)).containers), [])
    await trial.create(config)


@case(
    "RemoveContainer",
    Level.MUST,
    "CRI: a running container must be forcibly removed",
    "RemoveContainerRequest.container_id",
)
async def ends_a_running_container(trial: Trial) -> None:
    """The removal of a running container ends it."""
    path = trial.directory()
    config = trial.config("sh", "-c", "while :; do touch /mnt/alive; sleep 0.05; done")
    config.mounts.add(container_path="/mnt", host_path=path)
    box = await trial.box(config)
    await trial.remove(box.id)
    await refused("ContainerStatus of it", trial.status(box.id), "NOT_FOUND")
    os.rename(path, f"{path}-moved")  # a process that still wrote would do so here, below its mount
    stamp = [entry.stat().st_mtime_ns for entry in os.scandir(f"{path}-moved")]
    await trial.call(trial.runtime.Version, pb.VersionRequest())
    equal("files that it writes", [entry.stat().st_mtime_ns for entry in os.scandir(f"{path}-moved")], stamp)


@case(
    "RemoveContainer",
    Level.MUST,
    "CRI: RemoveContainer is idempotent and must not fail for what was removed",
    "RemoveContainerRequest.container_id",
)
async def of_a_container_that_is_gone_succeeds(trial: Trial) -> None:
    """The removal of a container that was removed, or never was, succeeds."""
    container = await trial.create()
    for _ in range(3):
        await trial.remove(container)
    await trial.remove(NOBODY)
