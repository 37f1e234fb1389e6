"""Which pods and containers a list has, as its options say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from crib.cli.image_choice import compiled, spellings, split_filter
from crib.cli.labels import selector
from crib.cli.session import CommandError
from crib.client import images, lookup
from crib.client.errors import NotFound
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_RUNNING, SANDBOX_READY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crib.cli.listing_options import PodsOptions, PsOptions
    from crib.client import Connection
    from crib.stubs.runtime.v1.api_pb2 import Container, PodSandbox

_Options = TypeVar("_Options", "PodsOptions", "PsOptions")
_POD_STATES = ("ready", "notready")
_CONTAINER_STATES = ("created", "running", "exited", "unknown")
_DOCKER = {"name": "name", "status": "state", "state": "state", "id": "id"}
_DOCKER_PS = {"ancestor": "image", "image": "image", "pod": "of_pod"}


async def chosen_pods(connection: Connection, options: PodsOptions) -> list[PodSandbox]:
    """Those that all options let pass, newest first."""
    options = _with_filters(options, _DOCKER)
    state = _state(options.state, _POD_STATES)
    tests = [selector(text, "--selector") for text in options.selectors or ()]
    name = compiled(options.name, "--name")
    found = [
        pod
        for pod in await lookup.pods(connection)
        if options.namespace in ("", pod.metadata.namespace)
        and pod.id.startswith(options.id)
        and name.search(pod.metadata.name)
        and state in ("", "ready" if pod.state == SANDBOX_READY else "notready")
        and all(test(pod.labels) for test in tests)
    ]
    return found[: _limit(options)]


async def chosen_containers(
    connection: Connection, options: PsOptions, pods: Mapping[str, PodSandbox]
) -> list[Container]:
    """Those that all options let pass, newest first. `pods` are all pods, by their ids."""
    options = _with_filters(options, {**_DOCKER, **_DOCKER_PS})
    state = _state(options.state, _CONTAINER_STATES)
    tests = [selector(text, "--selector") for text in options.selectors or ()]
    name = compiled(options.name, "--name")
    wanted = options.pod or options.of_pod
    pod_id = lookup.pick_pod(list(pods.values()), wanted).id if wanted else ""
    limit = _limit(options)
    every = options.every or state or limit is not None
    names = await _names_of(connection, options.image) if options.image else frozenset()
    found = [
        container
        for container in reversed(await lookup.containers(connection, pod_id))
        if (every or container.state == CONTAINER_RUNNING)
        and container.id.startswith(options.id)
        and name.search(container.metadata.name)
        and state in ("", lookup.state_of(container))
        and all(test(_labels(container, pods)) for test in tests)
        and (not names or not names.isdisjoint(_images_of(container)))
        and (not options.namespace or _namespace(container, pods) == options.namespace)
    ]
    return found[:limit]


def _with_filters(options: _Options, keys: Mapping[str, str]) -> _Options:
    """With what `--filter` says where the other options have it."""
    for text in options.filters or ():
        key, value = split_filter(text, (*keys, "label"))
        if key == "label":
            options = replace(options, selectors=[*(options.selectors or ()), value])
        else:
            change: dict[str, Any] = {keys[key]: value}
            options = replace(options, **change)
    return options


def _limit(options: PodsOptions | PsOptions) -> int | None:
    return 1 if options.latest else options.last or None


def _state(text: str, known: Sequence[str]) -> str:
    word = text.lower().removeprefix("container_").removeprefix("sandbox_")
    if word and word not in known:
        raise CommandError(f"--state {text!r} is not one of {', '.join(known)}", 2)
    return word


async def _names_of(connection: Connection, wanted: str) -> frozenset[str]:
    """All names and the id of the image; of one that is gone, the name as it was typed."""
    try:
        image = await images.resolve(connection, wanted)
    except NotFound:
        return frozenset((wanted,))
    return frozenset((wanted, image.id, *image.repo_tags, *image.repo_digests))


def _images_of(container: Container) -> frozenset[str]:
    own = (
        container.image_id,
        container.image_ref,
        container.image.image,
        container.image.user_specified_image,
    )
    return frozenset(spelling for name in own if name for spelling in spellings(name))


def _labels(container: Container, pods: Mapping[str, PodSandbox]) -> dict[str, str]:
    """Its own and its pod's: a kubelet and crib run leave those of a manifest with the pod."""
    pod = pods.get(container.pod_sandbox_id)
    return {**(pod.labels if pod else {}), **container.labels}


def _namespace(container: Container, pods: Mapping[str, PodSandbox]) -> str:
    pod = pods.get(container.pod_sandbox_id)
    return pod.metadata.namespace if pod else ""
