"""ListPodSandbox and ListContainers with their filters, and the streamed lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, TypeVar

from crib.client.errors import NotOffered
from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, true
from crib.conform.trial import Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from crib.client.pods import Pod

_Part = TypeVar("_Part")
LIMIT = 30.0
"""Seconds for a streamed list."""
_PLEG = "kubelet: lists by filter"
_KEP = "KEP-5825: CRI list streaming"


async def _pods(trial: Trial, **fields: object) -> set[str]:
    wanted = pb.PodSandboxFilter(**fields)  # type: ignore[arg-type]  # each case names fields of this message
    request = pb.ListPodSandboxRequest(filter=wanted)
    return {one.id for one in (await trial.call(trial.runtime.ListPodSandbox, request)).items}


async def _containers(trial: Trial, **fields: object) -> set[str]:
    wanted = pb.ContainerFilter(**fields)  # type: ignore[arg-type]  # as above
    request = pb.ListContainersRequest(filter=wanted)
    return {one.id for one in (await trial.call(trial.runtime.ListContainers, request)).containers}


async def _two_pods(trial: Trial) -> tuple[Pod, Pod]:
    """One ready and one stopped, labelled a=1 and a=2; both have b=1."""
    made = []
    for value in ("1", "2"):
        config = trial.pod_config()
        config.labels["conform/a"], config.labels["conform/b"] = value, "1"
        made.append(await trial.pod(config))
    await trial.stop_pod(made[1].id)
    return made[0], made[1]


@case("ListPodSandbox", Level.MUST, _PLEG, "ListPodSandboxRequest.filter")
async def without_a_filter_all_pods_are_listed(trial: Trial) -> None:
    """Without a filter ready and stopped sandboxes are listed."""
    one, other = await _two_pods(trial)
    reply = await trial.call(trial.runtime.ListPodSandbox, pb.ListPodSandboxRequest())
    true(
        "ListPodSandbox",
        {one.id, other.id} <= {item.id for item in reply.items},
        "both sandboxes",
        len(reply.items),
    )


@case(
    "ListPodSandbox",
    Level.MUST,
    _PLEG,
    "PodSandboxFilter.id,state,label_selector",
    "PodSandboxStateValue.state",
)
async def pods_are_filtered(trial: Trial) -> None:
    """A sandbox is listed if its id, its state and all labels of the selector are those of the filter."""
    one, other = await _two_pods(trial)
    ready, stopped = (
        pb.PodSandboxStateValue(state=pb.SANDBOX_READY),
        pb.PodSandboxStateValue(state=pb.SANDBOX_NOTREADY),
    )
    mine = dict(one.config.labels)
    equal("ListPodSandbox by id", await _pods(trial, id=one.id), {one.id})
    equal("ListPodSandbox by an id that nobody has", await _pods(trial, id="f" * 64), set())
    true(
        "ListPodSandbox of ready ones",
        (await _pods(trial, state=ready)) & {one.id, other.id} == {one.id},
        "the ready one of two",
        "another answer",
    )
    true(
        "ListPodSandbox of stopped ones",
        (await _pods(trial, state=stopped)) & {one.id, other.id} == {other.id},
        "the stopped one of two",
        "another answer",
    )
    equal("ListPodSandbox by all labels", await _pods(trial, label_selector=mine), {one.id})
    equal(
        "ListPodSandbox by labels of both",
        await _pods(trial, label_selector={**mine, "conform/a": "2"}),
        set(),
    )
    equal("ListPodSandbox by id and another state", await _pods(trial, id=one.id, state=stopped), set())


@case("ListPodSandbox", Level.SHOULD, "crictl: ids may be shortened", "PodSandboxFilter.id")
async def pods_are_filtered_by_the_beginning_of_an_id(trial: Trial) -> None:
    """The beginning of an id is enough for the filter."""
    pod = await trial.pod()
    equal("ListPodSandbox by 13 characters", await _pods(trial, id=pod.id[:13]), {pod.id})


@case(
    "ListContainers",
    Level.MUST,
    _PLEG,
    "ListContainersRequest.filter",
    "ContainerFilter.id,state,pod_sandbox_id,label_selector",
    "ContainerStateValue.state",
)
async def containers_are_filtered(trial: Trial) -> None:
    """A container is listed if its id, state, sandbox and all labels are those of the filter."""
    pod, other = await trial.pod(), await trial.subject.shared_pod()
    config = trial.config()
    config.labels["conform/a"] = "1"
    created = await trial.create(config, pod)
    running = (await trial.box(pod=pod)).id
    elsewhere = (await trial.box(pod=other)).id
    states = {name: pb.ContainerStateValue(state=number) for name, number in pb.ContainerState.items()}
    equal("ListContainers by sandbox", await _containers(trial, pod_sandbox_id=pod.id), {created, running})
    for name, expected in (("CREATED", {created}), ("RUNNING", {running}), ("EXITED", set())):
        state = states[f"CONTAINER_{name}"]
        equal(
            f"ListContainers by sandbox, {name}",
            await _containers(trial, pod_sandbox_id=pod.id, state=state),
            expected,
        )
    equal("ListContainers by id", await _containers(trial, id=running), {running})
    equal(
        "ListContainers by id and another sandbox",
        await _containers(trial, id=elsewhere, pod_sandbox_id=pod.id),
        set(),
    )
    equal("ListContainers by labels", await _containers(trial, label_selector=dict(config.labels)), {created})
    everything = await trial.call(trial.runtime.ListContainers, pb.ListContainersRequest())
    true(
        "ListContainers",
        {created, running, elsewhere} <= {one.id for one in everything.containers},
        "all of them",
        len(everything.containers),
    )


@case("ListContainers", Level.SHOULD, "crictl: ids may be shortened", "ContainerFilter.id,pod_sandbox_id")
async def containers_are_filtered_by_the_beginning_of_an_id(trial: Trial) -> None:
    """The beginning of a container's or a sandbox's id is enough for the filter."""
    pod = await trial.pod()
    container = await trial.create(pod=pod)
    equal("ListContainers by 13 characters", await _containers(trial, id=container[:13]), {container})
    equal(
        "ListContainers by 13 of the sandbox",
        await _containers(trial, pod_sandbox_id=pod.id[:13]),
        {container},
    )


@case(
    "ListContainers",
    Level.MUST,
    "CRI: Container",
    "Container.id,pod_sandbox_id,metadata,image,image_ref,state,created_at,labels,annotations",
)
async def entries_say_what_the_status_says(trial: Trial) -> None:
    """A list entry has the same metadata, image, state, times, labels and annotations as the status."""
    pod = await trial.subject.shared_pod()
    box = await trial.box()
    status = await box.status()
    request = pb.ListContainersRequest(filter=pb.ContainerFilter(id=box.id))
    (item,) = (await trial.call(trial.runtime.ListContainers, request)).containers
    equal("ListContainers: pod_sandbox_id", item.pod_sandbox_id, pod.id)
    for name in ("id", "metadata", "image_ref", "state", "created_at"):
        equal(f"ListContainers: {name}", getattr(item, name), getattr(status, name))
    for name in ("labels", "annotations"):
        equal(f"ListContainers: {name}", dict(getattr(item, name)), dict(getattr(status, name)))
    true("ListContainers: image", item.image.image, "a name", item.image)


async def _streamed(parts: AsyncIterator[_Part], field: str) -> list[str]:
    """Ids of all parts; NotApplicable where there is no such call."""
    try:
        return [_id(one) async for part in parts for one in getattr(part, field)]
    except NotOffered as error:
        raise NotApplicable(error.message) from error


def _id(one: object) -> str:
    attributes = getattr(one, "attributes", None)
    return str(attributes.id if attributes is not None else getattr(one, "pod_sandbox_id", "") or one.id)  # type: ignore[attr-defined]  # all entries have one


def _same(asked: str, got: Iterable[str], expected: Iterable[str]) -> None:
    equal(asked, sorted(got), sorted(expected))


@case(
    "StreamPodSandboxes",
    Level.OPTIONAL,
    _KEP,
    "StreamPodSandboxesRequest.filter",
    "StreamPodSandboxesResponse.pod_sandboxes",
)
async def pods_come_in_parts(trial: Trial) -> None:
    """The streamed list of sandboxes has the entries of the other, by filter."""
    pod = await trial.pod()
    request = pb.StreamPodSandboxesRequest(filter=pb.PodSandboxFilter(id=pod.id))
    _same(
        "StreamPodSandboxes by id",
        await _streamed(
            trial.connection.stream(trial.runtime.StreamPodSandboxes, request, LIMIT), "pod_sandboxes"
        ),
        [pod.id],
    )


@case(
    "StreamContainers",
    Level.OPTIONAL,
    _KEP,
    "StreamContainersRequest.filter",
    "StreamContainersResponse.containers",
)
async def containers_come_in_parts(trial: Trial) -> None:
    """The streamed list of containers has the entries of the other, by filter."""
    pod = await trial.pod()
    containers = [await trial.create(pod=pod) for _ in range(2)]
    request = pb.StreamContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod.id))
    found = await _streamed(
        trial.connection.stream(trial.runtime.StreamContainers, request, LIMIT), "containers"
    )
    # an entry names its sandbox too; the list of ids is what counts
    reply = await trial.call(trial.runtime.ListContainers, pb.ListContainersRequest(filter=request.filter))
    equal("StreamContainers: entries", len(found), len(reply.containers))
    equal("ListContainers: entries", {one.id for one in reply.containers}, set(containers))


@case(
    "StreamContainerStats",
    Level.OPTIONAL,
    _KEP,
    "StreamContainerStatsRequest.filter",
    "StreamContainerStatsResponse.container_stats",
)
async def container_stats_come_in_parts(trial: Trial) -> None:
    """The streamed figures of containers are of those that pass the filter."""
    box = await trial.box()
    request = pb.StreamContainerStatsRequest(filter=pb.ContainerStatsFilter(id=box.id))
    found = await _streamed(
        trial.connection.stream(trial.runtime.StreamContainerStats, request, LIMIT), "container_stats"
    )
    _same("StreamContainerStats by id", found, [box.id])


@case(
    "StreamPodSandboxStats",
    Level.OPTIONAL,
    _KEP,
    "StreamPodSandboxStatsRequest.filter",
    "StreamPodSandboxStatsResponse.pod_sandbox_stats",
)
async def pod_stats_come_in_parts(trial: Trial) -> None:
    """The streamed figures of sandboxes are of those that pass the filter."""
    pod = await trial.pod()
    request = pb.StreamPodSandboxStatsRequest(filter=pb.PodSandboxStatsFilter(id=pod.id))
    found = await _streamed(
        trial.connection.stream(trial.runtime.StreamPodSandboxStats, request, LIMIT), "pod_sandbox_stats"
    )
    _same("StreamPodSandboxStats by id", found, [pod.id])


@case("StreamPodSandboxMetrics", Level.OPTIONAL, _KEP, "StreamPodSandboxMetricsResponse.pod_sandbox_metrics")
async def metrics_come_in_parts(trial: Trial) -> None:
    """The streamed metrics have those of a running pod."""
    box = await trial.box()
    request = pb.StreamPodSandboxMetricsRequest()
    found = await _streamed(
        trial.connection.stream(trial.runtime.StreamPodSandboxMetrics, request, LIMIT), "pod_sandbox_metrics"
    )
    true("StreamPodSandboxMetrics", box.pod.id in found, "the pod", found)


@case("StreamImages", Level.OPTIONAL, _KEP, "StreamImagesRequest.filter", "StreamImagesResponse.images")
async def images_come_in_parts(trial: Trial) -> None:
    """The streamed list of images has the entries of the other."""
    found = await _streamed(
        trial.connection.stream(trial.images.StreamImages, pb.StreamImagesRequest(), LIMIT), "images"
    )
    wanted = pb.ImageFilter(image=pb.ImageSpec(image=trial.subject.image))
    (image,) = (await trial.call(trial.images.ListImages, pb.ListImagesRequest(filter=wanted))).images
    true("StreamImages", image.id in found, "the image of this run", found)
