"""Finding a pod, container or image by what a person types: a name or the beginning of an id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.client.errors import Ambiguous, NotFound
from crib.manifest.plan import INIT_CONTAINER
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED,
    CONTAINER_EXITED,
    CONTAINER_RUNNING,
    SANDBOX_READY,
    Container,
    ContainerFilter,
    ListContainersRequest,
    ListPodSandboxRequest,
    PodSandbox,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crib.client.connection import Connection

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
"""The pod annotation that names the container meant when none is named."""
SHOWN = 10
"""How many candidates an error lists."""


@dataclass(frozen=True, slots=True)
class Found:
    """A pod, and one of its containers when one was named or meant."""

    pod: PodSandbox
    container: Container


async def pods(connection: Connection) -> list[PodSandbox]:
    """Every sandbox, newest first."""
    reply = await connection.call(connection.runtime.ListPodSandbox, ListPodSandboxRequest())
    return sorted(reply.items, key=lambda pod: pod.created_at, reverse=True)


async def containers(connection: Connection, pod_id: str = "") -> list[Container]:
    """Every container (of one sandbox), oldest first."""
    request = ListContainersRequest(filter=ContainerFilter(pod_sandbox_id=pod_id))
    reply = await connection.call(connection.runtime.ListContainers, request)
    return sorted(reply.containers, key=lambda container: container.created_at)


def pick_pod(candidates: list[PodSandbox], name: str) -> PodSandbox:
    """The one that `name` means: NAME, NAMESPACE/NAME, or the beginning of an id.

    Of several sandboxes of one pod (attempts) the ready one is meant, else the newest. Raises NotFound or
    Ambiguous.
    """
    namespace, _, short = name.rpartition("/")
    named = [
        pod
        for pod in candidates
        if pod.metadata.name == short and (not namespace or pod.metadata.namespace == namespace)
    ]
    if named:
        if len({(pod.metadata.namespace, pod.metadata.uid) for pod in named}) > 1:
            raise Ambiguous(f"{name!r} is the name of more than one pod: {_list(map(pod_label, named))}")
        return min(named, key=lambda pod: (pod.state != SANDBOX_READY, -pod.created_at))
    by_id = [pod for pod in candidates if name and pod.id.startswith(name)]
    if not by_id:
        raise NotFound(f"there is no pod {name!r}")
    if len(by_id) > 1:
        raise Ambiguous(f"{name!r} begins the ids of more than one pod: {_list(map(pod_label, by_id))}")
    return by_id[0]


async def find_pod(connection: Connection, name: str) -> PodSandbox:
    """`pick_pod` among all sandboxes of the runtime."""
    return pick_pod(await pods(connection), name)


async def find_container(connection: Connection, target: str, name: str = "") -> Found:
    """The container that a person means.

    `target` is a pod as in `pick_pod`, NAMESPACE/POD/CONTAINER, or the beginning of a container's id; `name`
    picks one of a pod's containers. Without it the container is meant that the pod's annotation names as the
    default, or the only one that runs, or where none runs the only one, init containers not counted.
    """
    found = await find(connection, target, name)
    if found.container is not None:
        return Found(found.pod, found.container)
    own = await containers(connection, found.pod.id)
    return Found(found.pod, _pick_container(own, found.pod))


@dataclass(frozen=True, slots=True)
class PodOrContainer:
    """A pod, or one of its containers."""

    pod: PodSandbox
    container: Container | None = None

    @property
    def id(self) -> str:
        return self.container.id if self.container else self.pod.id

    @property
    def label(self) -> str:
        """How it is named to people: NAMESPACE/NAME or NAMESPACE/POD/CONTAINER, with its short id."""
        return container_label(self.container, [self.pod]) if self.container else pod_label(self.pod)


async def find(connection: Connection, target: str, name: str = "") -> PodOrContainer:
    """The pod or the container that a person means; see `find_container`. NotFound, Ambiguous."""
    everything = await pods(connection)
    if target.count("/") == 2 and not name:
        target, _, name = target.rpartition("/")
    try:
        pod = pick_pod(everything, target)
    except Ambiguous:
        raise
    except NotFound:
        return await _by_container_id(connection, everything, target)
    if not name:
        return PodOrContainer(pod)
    return PodOrContainer(pod, _named(await containers(connection, pod.id), pod, name))


async def _by_container_id(
    connection: Connection, everything: list[PodSandbox], target: str
) -> PodOrContainer:
    fitting = [found for found in await containers(connection) if target and found.id.startswith(target)]
    if not fitting:
        raise NotFound(f"there is no pod or container {target!r}")
    if len(fitting) > 1:
        labels = (container_label(found, everything) for found in fitting)
        raise Ambiguous(f"{target!r} begins the ids of more than one container: {_list(labels)}")
    for pod in everything:
        if pod.id == fitting[0].pod_sandbox_id:
            return PodOrContainer(pod, fitting[0])
    raise NotFound(f"the pod of container {fitting[0].id[:12]} is gone")


def _named(candidates: list[Container], pod: PodSandbox, name: str) -> Container:
    own = latest(candidates)  # the last attempt of each wins
    if name in own:
        return own[name]
    names = ", ".join(own) or "none"
    raise NotFound(f"pod {pod_label(pod)} has no container {name!r}; it has: {names}")


def _pick_container(candidates: list[Container], pod: PodSandbox) -> Container:
    own = latest(candidates)
    if not own:
        raise NotFound(f"pod {pod_label(pod)} has no containers")
    wanted = pod.annotations.get(DEFAULT_CONTAINER, "")
    if wanted in own:
        return own[wanted]
    choices = [one for one in own.values() if one.state == CONTAINER_RUNNING]
    choices = choices or [one for one in own.values() if not is_init(one)] or list(own.values())
    if len(choices) == 1:
        return choices[0]
    names = ", ".join(one.metadata.name for one in choices)
    raise Ambiguous(f"pod {pod_label(pod)} has several containers; choose one with -c: {names}")


def is_init(container: Container) -> bool:
    """Whether `crib run` made it as an init container that has to end before the others start."""
    return INIT_CONTAINER in container.annotations


KUBELETS = "kubernetes.io/config.source"
"""The pod annotation that a kubelet gives to each of its pods, and nobody else."""


def is_kubelets(pod: PodSandbox) -> bool:
    """Whether a kubelet looks after the pod: it restarts and removes its containers by itself."""
    return KUBELETS in pod.annotations


def has_ended(pod: PodSandbox, own: Sequence[Container]) -> bool:
    """Whether nothing of the pod runs any more: its sandbox is stopped, or all of its containers exited."""
    if pod.state != SANDBOX_READY:
        return True
    return bool(own) and all(container.state == CONTAINER_EXITED for container in own)


def latest(candidates: Iterable[Container]) -> dict[str, Container]:
    """The last attempt of each container of a pod, by name, in the order in which they were first made."""
    found: dict[str, Container] = {}
    for container in candidates:
        before = found.get(container.metadata.name)
        if before is None or _turn(container) >= _turn(before):
            found[container.metadata.name] = container
    return found


def replaced(candidates: Iterable[Container]) -> list[Container]:
    """Attempts that are not the last one of their container."""
    everything = list(candidates)
    by_pod: dict[str, list[Container]] = {}
    for container in everything:
        by_pod.setdefault(container.pod_sandbox_id, []).append(container)
    last = {container.id for own in by_pod.values() for container in latest(own).values()}
    return [container for container in everything if container.id not in last]


def _turn(container: Container) -> tuple[int, int]:
    return (container.metadata.attempt, container.created_at)


_STATES = {CONTAINER_CREATED: "created", CONTAINER_RUNNING: "running", CONTAINER_EXITED: "exited"}


def state_of(container: Container) -> str:
    """Its state in one word: created, running, exited or unknown."""
    return _STATES.get(container.state, "unknown")


def container_label(container: Container, candidates: Iterable[PodSandbox]) -> str:
    """How a container is named to people: NAMESPACE/POD/CONTAINER (short id)."""
    name = f"{container.metadata.name} ({container.id[:12]})"
    for pod in candidates:
        if pod.id == container.pod_sandbox_id:
            return f"{pod.metadata.namespace}/{pod.metadata.name}/{name}"
    return name


def pod_label(pod: PodSandbox) -> str:
    """How a pod is named to people: NAMESPACE/NAME (short id)."""
    return label_of(pod, pod.id)


def label_of(pod: PodSandbox, pod_id: str) -> str:
    """The label of another attempt of the pod, with that id."""
    return f"{pod.metadata.namespace}/{pod.metadata.name} ({pod_id[:12]})"


def _list(labels: Iterable[str]) -> str:
    shown = list(labels)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
