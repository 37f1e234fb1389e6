"""What differs between a pod's plan and what runs of it.

Values are compared as the runtime keeps them. What every pod has of its own (uid, attempt, paths with its
uid) and what the image decides does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from crib.client import attempts, images, lookup
from crib.client import pods as client_pods
from crib.client.workloads import pod_volumes, user_ids
from crib.client.workloads.containers import RESTART_COUNT
from crib.client.workloads.generated import read_files
from crib.manifest import late
from crib.manifest.jobs import JOB_UID
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_EXITED, CONTAINER_RUNNING, SANDBOX_READY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from crib.client.connection import Connection
    from crib.manifest.plan import ContainerPlan, Dirs, PodPlan
    from crib.stubs.runtime.v1.api_pb2 import Container, PodSandbox, PodSandboxConfig

_OWN = (
    "metadata.uid",
    "metadata.attempt",
    "logPath",
    "logDirectory",
    f"annotations[{RESTART_COUNT}]",
    f"labels[{JOB_UID}]",
    "image.image",
    "image.annotations",
    "image.runtimeHandler",
)
_LIMITS = ("cpuPeriod", "cpuQuota", "cpuShares", "memoryLimitInBytes", "oomScoreAdj")
_RESOURCES = "linux.resources."
_IMAGES = ("linux.securityContext.runAsUser", "linux.securityContext.runAsUsername")
_KEYS = {"mounts": "containerPath", "envs": "key"}
"""Lists whose elements are told apart by a field."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a pod (an empty `container`) or of a container; None: it is not there."""

    pod: str
    container: str
    field: str
    wanted: str | None
    found: str | None


async def differences(connection: Connection, plan: PodPlan, dirs: Dirs) -> list[Difference]:
    """Everything that differs. NotOffered if the runtime does not tell what pods were made from."""
    pod = _running(plan, await lookup.pods(connection))
    if pod is None:
        return [Difference(plan.label, "", "state", "running", None)]
    if pod.state != SANDBOX_READY:
        return [Difference(plan.label, "", "state", "running", "stopped")]
    attached = await pod_volumes.as_attached(connection, plan, pod.metadata.uid, dirs)
    plan = late.placed(attached, late.shown_paths(attached))  # shown are those that it does not have
    plan = await user_ids.as_made(connection, plan, pod.id)
    config = await attempts.sandbox_config(connection, pod.id)
    found = _of_sandbox(plan, config, pod.metadata.uid)
    found += _files(plan, pod.metadata.uid, dirs)
    here = lookup.latest(await lookup.containers(connection, pod.id))
    addresses = await client_pods.addresses(connection, pod.id)
    for container in plan.every_container():
        known = here.pop(container.name, None)
        if known is None:
            found.append(Difference(plan.label, container.name, "state", "running", None))
            continue
        found += await _of_container(connection, plan, late.filled(container, addresses), known)
    found += [Difference(plan.label, name, "state", None, lookup.state_of(one)) for name, one in here.items()]
    return found


def _running(plan: PodPlan, pods: Sequence[PodSandbox]) -> PodSandbox | None:
    same = [pod for pod in pods if (pod.metadata.namespace, pod.metadata.name) == (plan.namespace, plan.name)]
    return min(same, key=lambda pod: (pod.state != SANDBOX_READY, -pod.created_at), default=None)


async def _of_container(
    connection: Connection, plan: PodPlan, container: ContainerPlan, known: Container
) -> list[Difference]:
    config = await attempts.container_config(connection, known.id)
    uid = known.labels.get("io.kubernetes.pod.uid", "") or config.labels.get("io.kubernetes.pod.uid", "")
    wanted, found = fields(container.config), _as_if(config, uid, plan.uid)
    for name in _IMAGES:
        if name not in wanted:
            found.pop(name, None)
    told = _compared(plan.label, container.name, wanted, found)
    image = await images.find(connection, container.image)
    if (
        image is not None
        and config.image.image != image.id
        and container.image == known.image.user_specified_image
    ):
        told.append(Difference(plan.label, container.name, "image.id", image.id, config.image.image))
    if known.state != CONTAINER_RUNNING:
        status = await client_pods.container_status(connection, known.id)
        is_done = known.state == CONTAINER_EXITED and status.exit_code == 0
        if not (is_done and (container in plan.init_containers or not container.behaviour.restarts_after(0))):
            told.append(Difference(plan.label, container.name, "state", "running", lookup.state_of(known)))
    return told


def _of_sandbox(plan: PodPlan, config: PodSandboxConfig, uid: str) -> list[Difference]:
    """Limits that are made of the containers' differ where those do, and are not told again."""
    told = _compared(plan.label, "", fields(plan.sandbox), _as_if(config, uid, plan.uid))
    return [one for one in told if plan.own_resources or not one.field.startswith(_RESOURCES)]


def _files(plan: PodPlan, uid: str, dirs: Dirs) -> list[Difference]:
    """Files of ConfigMaps and the like, as this node has them."""
    told = []
    for volume in plan.volumes:
        if volume.kind != "files":
            continue
        wanted = {file.path: file.content.decode(errors="replace") for file in volume.files}
        found = {
            path: data.decode(errors="replace")
            for path, data in read_files(dirs.volume(uid, volume.name)).items()
        }
        told += _compared(
            plan.label,
            "",
            {f"volumes[{volume.name}].{path}": text for path, text in wanted.items()},
            {f"volumes[{volume.name}].{path}": text for path, text in found.items()},
        )
    return told


def _compared(
    pod: str, container: str, wanted: Mapping[str, str], found: Mapping[str, str]
) -> list[Difference]:
    return [
        Difference(pod, container, name, wanted.get(name), found.get(name))
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]


def fields(message: Message) -> dict[str, str]:
    """A configuration as values by their paths, without what is a pod's own."""
    found: dict[str, str] = {}
    _flatten(MessageToDict(message), "", found)
    for env in getattr(message, "envs", ()):
        found[f"envs[{env.key}]"] = env.value.decode(errors="replace")
    return {name: value for name, value in found.items() if _counts(name)}


def _counts(name: str) -> bool:
    if name.startswith("mounts[") and name.endswith("].image.image"):
        return False  # by id when it runs; its name is compared
    if name.startswith(_RESOURCES):
        return name.removeprefix(_RESOURCES) in _LIMITS
    return not any(name == own or name.startswith((f"{own}.", f"{own}[")) for own in _OWN)


def _flatten(value: Any, path: str, found: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            is_map = path in ("labels", "annotations", "linux.sysctls")
            if path == "" and key == "envs":
                continue  # their values are bytes
            _flatten(inner, f"{path}[{key}]" if is_map else f"{path}.{key}".lstrip("."), found)
    elif isinstance(value, list) and path in _KEYS:
        for item in value:
            _flatten(item, f"{path}[{item.get(_KEYS[path], '')}]", found)
    elif isinstance(value, list):
        if value:
            found[path] = ", ".join(map(str, value))
    else:
        found[path] = str(value)


def _as_if(config: Message, uid: str, wanted: str) -> dict[str, str]:
    """What runs, as it would be with the plan's uid."""
    found = fields(config)
    return {name: value.replace(uid, wanted) for name, value in found.items()} if uid else found
