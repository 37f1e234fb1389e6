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
from crib.manifest.pod_resources import PodAmounts, Portion, pod_amounts
from crib.manifest.resources import Amounts, amounts, given_amounts
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
        own = given_amounts(spec)
        self.amounts = PodAmounts(own if own != Amounts() else None)


def read_amounts(node: ManifestNode, parts: PodParts, *, init: bool) -> None:
    """First pass: names and resources of all containers, which those of the pod are made of."""
    node.check(shapes.CONTAINER)
    found = amounts(node)
    parts.amounts.shares[check_label(node, "name")] = Portion(found, init and not is_sidecar(node, init=init))
    own = parts.amounts.own or Amounts()
    for name, limit, most in (
        ("cpu", found.cpu_limit, own.cpu_limit),
        ("memory", found.memory_limit, own.memory_limit),
    ):
        if limit is not None and most is not None and limit > most:
            node.part("resources").part("limits").wrong(name, "is greater than the pod's")


def check_sum(parts: PodParts) -> None:
    """After the first pass: a pod asks for what its containers do, or for more."""
    own, asked = parts.amounts.own or Amounts(), pod_amounts(parts.amounts.shares.values())
    for name, pods, containers in (
        ("cpu", own.cpu_request, asked.cpu_request),
        ("memory", own.memory_request, asked.memory_request),
    ):
        if pods is not None and (containers or 0) > pods:
            problem = "is less than what the containers ask for together"
            parts.spec.part("resources").part("requests").wrong(name, problem)


def container_plan(node: ManifestNode, parts: PodParts, *, init: bool) -> ContainerPlan:
    """Second pass: everything else."""
    name, image = node.text("name"), node.need_text("image")
    env = environment(node, parts.references)
    found, sub_paths = mounts(node, parts.volumes, (parts.site.dirs, parts.uid), env)
    if parts.hosts is not None and not any(mount.container_path == HOSTS for mount in found):
        found.append(Mount(container_path=HOSTS, host_path=parts.hosts.path, selinux_relabel=True))
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
            resources=parts.amounts.of_container(name, parts.site.memory),
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
