"""One entry of `spec.containers` or `spec.initContainers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.manifest import security, shapes
from crib.manifest.behaviour import behaviour, is_sidecar
from crib.manifest.behaviour_plan import Behaviour, PodBehaviour
from crib.manifest.environment import environment, expand
from crib.manifest.fields import ManifestNode, check_label
from crib.manifest.hosts import HOSTS
from crib.manifest.mounts import devices, mounts
from crib.manifest.plan import INIT_CONTAINER, ContainerPlan, HostsPlan, VolumePlan
from crib.manifest.resources import Amounts, amounts, linux_resources
from crib.manifest.volumes import pull_policy
from crib.stubs.runtime.v1 import api_pb2
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerConfig,
    ContainerMetadata,
    ImageSpec,
    KeyValue,
    LinuxContainerConfig,
    Mount,
    NamespaceOption,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.manifest.references import References

GRACE = "io.kubernetes.pod.terminationGracePeriod"
"""The annotation under which a kubelet keeps the grace period of a container (seconds)."""


class PodParts:
    """What every container of a pod is made with."""

    def __init__(self, spec: ManifestNode, references: References, options: NamespaceOption) -> None:
        self.spec = spec
        self.references = references
        self.site = references.facts.site
        self.uid = references.facts.uid
        self.options = options
        self.hosts: HostsPlan | None = None
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
    env = environment(node, parts.references)
    found, sub_paths = mounts(node, parts.volumes, (parts.site.dirs, parts.uid), env)
    if parts.hosts is not None and not any(mount.container_path == HOSTS for mount in found):
        found.append(Mount(container_path=HOSTS, host_path=parts.hosts.path, selinux_relabel=True))
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
        command=[expand(word, env) for word in node.texts("command")],
        args=[expand(word, env) for word in node.texts("args")],
        working_dir=node.text("workingDir"),
        envs=[
            KeyValue(key=key, value=value.encode("utf-8", "surrogateescape")) for key, value in env.items()
        ],
        mounts=found,
        devices=devices(node, parts.volumes, own_users=parts.options.HasField("userns_options")),
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
