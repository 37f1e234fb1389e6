"""One entry of `spec.containers` or `spec.initContainers`.

Requests and limits become cgroup values by the same rules as in a kubelet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.manifest import quantity, security, shapes
from crib.manifest.behaviour import behaviour, is_sidecar
from crib.manifest.behaviour_plan import Behaviour, PodBehaviour
from crib.manifest.fields import ManifestNode, check_label, is_env_name
from crib.manifest.plan import INIT_CONTAINER, ContainerPlan, Site, VolumePlan
from crib.manifest.volumes import mounts, pull_policy
from crib.stubs.runtime.v1 import api_pb2
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerConfig,
    ContainerMetadata,
    ImageSpec,
    KeyValue,
    LinuxContainerConfig,
    LinuxContainerResources,
    NamespaceOption,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

GRACE = "io.kubernetes.pod.terminationGracePeriod"
"""The annotation under which a kubelet keeps the grace period of a container (seconds)."""


class PodParts:
    """What every container of a pod is made with."""

    def __init__(self, spec: ManifestNode, site: Site, uid: str, options: NamespaceOption) -> None:
        self.spec = spec
        self.site = site
        self.uid = uid
        self.options = options
        self.volumes: dict[str, VolumePlan] = {}
        self.identity: Mapping[str, str] = {}
        self.behaviour = PodBehaviour()
        self.quality: dict[str, Amounts] = {}

    def all_guaranteed(self) -> bool:
        """Whether every container's requests equal its limits, for both CPU and memory."""
        return all(found.guaranteed for found in self.quality.values())

    def all_best_effort(self) -> bool:
        """Whether no container asks for or is limited in anything."""
        return all(found.best_effort for found in self.quality.values())


def read_amounts(node: ManifestNode, parts: PodParts) -> None:
    """First pass: names and resources of all containers, which the quality of service is made of."""
    node.check(shapes.CONTAINER)
    parts.quality[check_label(node, "name")] = amounts(node)


def container_plan(node: ManifestNode, parts: PodParts, *, init: bool) -> ContainerPlan:
    """Second pass: everything else."""
    name, image = node.text("name"), node.need_text("image")
    found, sub_paths = mounts(node, parts.volumes, parts.site.dirs, parts.uid)
    env = _environment(node)
    resources = linux_resources(
        parts.quality.get(name, Amounts()),
        parts.site.memory,
        guaranteed=parts.all_guaranteed(),
        best_effort=parts.all_best_effort(),
    )
    found_behaviour = Behaviour()
    with node.faults.gather():
        found_behaviour = behaviour(node, parts.behaviour, init=init)
    config = ContainerConfig(
        metadata=ContainerMetadata(name=name),
        image=ImageSpec(image=image, user_specified_image=image),
        command=[_expand(word, env) for word in node.texts("command")],
        args=[_expand(word, env) for word in node.texts("args")],
        working_dir=node.text("workingDir"),
        envs=[KeyValue(key=key, value=value.encode()) for key, value in env.items()],
        mounts=found,
        labels={**parts.identity, "io.kubernetes.container.name": name},
        annotations={GRACE: str(parts.behaviour.grace), **_role(node, init=init)},
        log_path=f"{name}/0.log",
        stdin=bool(node.flag("stdin")),
        stdin_once=bool(node.flag("stdinOnce")),
        tty=bool(node.flag("tty")),
        linux=LinuxContainerConfig(
            resources=resources,
            security_context=security.container_security(parts.spec, node, parts.options, parts.site),
        ),
        stop_signal=_stop_signal(node),
    )
    return ContainerPlan(
        name=name,
        image=image,
        pull=pull_policy(node, "imagePullPolicy", image),
        config=config,
        must_not_be_root=security.must_not_be_root(parts.spec, node),
        sidecar=is_sidecar(node, init=init),
        sub_paths=sub_paths,
        behaviour=found_behaviour,
    )


def _environment(node: ManifestNode) -> dict[str, str]:
    """Variables in order; a value may refer to those before it, and a later one of a name wins."""
    found: dict[str, str] = {}
    for entry in node.children("env"):
        entry.check(shapes.ENV)
        name = entry.need_text("name")
        if name and not is_env_name(name):
            entry.wrong("name", f"{name!r} is not the name of an environment variable")
        found[name] = _expand(entry.text("value"), found)
    return found


def _role(node: ManifestNode, *, init: bool) -> dict[str, str]:
    return {INIT_CONTAINER: "true"} if init and not is_sidecar(node, init=init) else {}


def _stop_signal(node: ManifestNode) -> api_pb2.Signal.ValueType:
    lifecycle = node.child("lifecycle")
    if lifecycle is None:
        return api_pb2.SIGNAL_RUNTIME_DEFAULT
    lifecycle.check(shapes.LIFECYCLE)
    word = lifecycle.text("stopSignal")
    if not word:
        return api_pb2.SIGNAL_RUNTIME_DEFAULT
    try:
        return api_pb2.Signal.Value("SIGNAL_" + word.replace("+", "PLUS").replace("-", "MINUS"))
    except ValueError:
        lifecycle.wrong("stopSignal", f"{word!r} is not a signal such as SIGTERM")
        return api_pb2.SIGNAL_RUNTIME_DEFAULT


_REFERENCE = re.compile(r"\$(?:(?P<escaped>\$)|\((?P<name>[^)]*)\))")


def _expand(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value; `$$` is a dollar sign, an unknown name stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        return env.get(match["name"], match[0])

    return _REFERENCE.sub(replacement, text)


@dataclass(frozen=True, slots=True)
class Amounts:
    """CPU in thousandths of a core, memory in bytes; None: not said."""

    cpu_request: int | None = None
    cpu_limit: int | None = None
    memory_request: int | None = None
    memory_limit: int | None = None

    @property
    def guaranteed(self) -> bool:
        return (
            bool(self.cpu_limit and self.memory_limit)
            and self.cpu_request == self.cpu_limit
            and self.memory_request == self.memory_limit
        )

    @property
    def best_effort(self) -> bool:
        return not any((self.cpu_request, self.cpu_limit, self.memory_request, self.memory_limit))


def amounts(container: ManifestNode) -> Amounts:
    """A container's `resources`; a request that is not given is its limit, as an API server fills it in."""
    node = container.child("resources")
    if node is None:
        return Amounts()
    node.check(shapes.RESOURCES)
    requests, limits = _amounts(node, "requests"), _amounts(node, "limits")
    for name, limit in limits.items():
        if requests.setdefault(name, limit) > limit:
            node.part("requests").wrong(name, "is greater than the limit")
    return Amounts(requests.get("cpu"), limits.get("cpu"), requests.get("memory"), limits.get("memory"))


def _amounts(resources: ManifestNode, which: str) -> dict[str, int]:
    node = resources.part(which)
    found: dict[str, int] = {}
    for name in node.names():
        try:
            value = quantity.parse_quantity(node.raw(name))
        except ValueError as error:
            node.wrong(name, str(error))
            continue
        if name == "cpu":
            found[name] = quantity.milli(value)
        elif name == "memory":
            found[name] = quantity.whole(value)
        elif name == "ephemeral-storage" and which == "requests":
            node.notes.add(node.at(name), "no effect: there is no scheduler here")
        elif name == "ephemeral-storage":
            node.wrong(name, "not supported: it is enforced by a kubelet")
        else:
            node.wrong(name, "not supported: crib run knows cpu and memory")
    return found


def linux_resources(
    found: Amounts, memory_capacity: int, *, guaranteed: bool, best_effort: bool
) -> LinuxContainerResources:
    """The cgroup's values. Both flags are of the whole pod (its quality of service)."""
    return LinuxContainerResources(
        cpu_shares=quantity.cpu_shares(found.cpu_request or 0),
        cpu_period=quantity.PERIOD if found.cpu_limit else 0,
        cpu_quota=quantity.cpu_quota(found.cpu_limit or 0),
        memory_limit_in_bytes=found.memory_limit or 0,
        oom_score_adj=quantity.oom_score_adj(
            found.memory_request or 0, memory_capacity, guaranteed=guaranteed, best_effort=best_effort
        ),
    )
