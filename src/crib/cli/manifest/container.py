"""One entry of `spec.containers` or `spec.initContainers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.manifest import security, shapes
from crib.cli.manifest.expand import expand
from crib.cli.manifest.fields import ManifestError, ManifestNode
from crib.cli.manifest.names import check_env_name, check_label
from crib.cli.manifest.plan import ContainerPlan, Site, VolumePlan
from crib.cli.manifest.resources import Amounts, amounts, linux_resources
from crib.cli.manifest.volumes import mounts, pull_policy
from crib.stubs.runtime.v1 import api_pb2
from crib.stubs.runtime.v1.api_pb2 import (
    ContainerConfig,
    ContainerMetadata,
    ImageSpec,
    KeyValue,
    LinuxContainerConfig,
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
        command=[expand(word, env) for word in node.texts("command")],
        args=[expand(word, env) for word in node.texts("args")],
        working_dir=node.text("workingDir"),
        envs=[KeyValue(key=key, value=value.encode()) for key, value in env.items()],
        mounts=found,
        labels={**parts.identity, "io.kubernetes.container.name": name},
        annotations={GRACE: str(parts.grace)},
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
        found[name] = expand(entry.text("value"), found)
    return found


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
