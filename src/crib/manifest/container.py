"""One entry of `spec.containers` or `spec.initContainers`.

Requests and limits become cgroup values by the same rules as in a kubelet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.manifest import quantity, security, shapes
from crib.manifest.fields import ManifestError, ManifestNode, check_env_name, check_label
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
        self.grace = 30
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
    name = check_label(node, "name")
    if name in parts.quality:
        raise ManifestError(node.at("name"), f"container {name!r} is there twice")
    parts.quality[name] = amounts(node)


def container_plan(node: ManifestNode, parts: PodParts, *, init: bool) -> ContainerPlan:
    """Second pass: everything else."""
    name, image = node.text("name"), node.need_text("image")
    found, sub_paths = mounts(node, parts.volumes, parts.site.dirs, parts.uid)
    env = _environment(node)
    resources = linux_resources(
        parts.quality[name],
        parts.site.memory,
        guaranteed=parts.all_guaranteed(),
        best_effort=parts.all_best_effort(),
    )
    config = ContainerConfig(
        metadata=ContainerMetadata(name=name),
        image=ImageSpec(image=image, user_specified_image=image),
        command=[_expand(word, env) for word in node.texts("command")],
        args=[_expand(word, env) for word in node.texts("args")],
        working_dir=node.text("workingDir"),
        envs=[KeyValue(key=key, value=value.encode()) for key, value in env.items()],
        mounts=found,
        labels={**parts.identity, "io.kubernetes.container.name": name},
        annotations={GRACE: str(parts.grace), **_role(node, init=init)},
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
        sidecar=_is_sidecar(node, init=init),
        sub_paths=sub_paths,
    )


def _environment(node: ManifestNode) -> dict[str, str]:
    """Variables in order; a value may refer to those before it, and a later one of a name wins."""
    found: dict[str, str] = {}
    for entry in node.children("env"):
        entry.check(shapes.ENV)
        name = check_env_name(entry, "name")
        found[name] = _expand(entry.text("value"), found)
    return found


def _role(node: ManifestNode, *, init: bool) -> dict[str, str]:
    return {INIT_CONTAINER: "true"} if init and not _is_sidecar(node, init=init) else {}


def _is_sidecar(node: ManifestNode, *, init: bool) -> bool:
    if not node.has("restartPolicy"):
        return False
    if not init:
        raise ManifestError(node.at("restartPolicy"), "not supported: crib run does not restart containers")
    node.choice("restartPolicy", ("Always",), "")
    return True


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
        raise ManifestError(lifecycle.at("stopSignal"), f"{word!r} is not a signal such as SIGTERM") from None


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
            raise ManifestError(node.at(f"requests.{name}"), "is greater than the limit")
    return Amounts(requests.get("cpu"), limits.get("cpu"), requests.get("memory"), limits.get("memory"))


def _amounts(resources: ManifestNode, which: str) -> dict[str, int]:
    node = resources.child(which)
    found: dict[str, int] = {}
    for name in node.names() if node else []:
        assert node is not None
        try:
            value = quantity.parse_quantity(node.raw(name))
        except ValueError as error:
            raise ManifestError(node.at(name), str(error)) from None
        if name == "cpu":
            found[name] = quantity.milli(value)
        elif name == "memory":
            found[name] = quantity.whole(value)
        elif name == "ephemeral-storage" and which == "requests":
            node.notes.add(node.at(name), "no effect: there is no scheduler here")
        elif name == "ephemeral-storage":
            raise ManifestError(node.at(name), "not supported: it is enforced by a kubelet")
        else:
            raise ManifestError(node.at(name), "not supported: crib run knows cpu and memory")
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
