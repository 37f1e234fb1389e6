"""The spec of a pod's infra process: pid 1 of containers that share their pids, which reaps orphans.

Some runtimes want one in each pod, as the container that holds the others (`sandbox_container`). The pod's
own security context holds for that process. It is checked even if the pod has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crib.model.facts import HostFacts
from crib.model.sandbox import SandboxConfig
from crib.ocispec.annotations import compiled_filter
from crib.ocispec.namespaces import id_mappings
from crib.ocispec.process import oom_score_adj
from crib.ocispec.seccomp import chosen_filter
from crib.ocispec.security import confinement
from crib.ocispec.selinux import pod_labels
from crib.wire import oci_runtime as oci

_NOBODY = 65535
_OOM_SCORE = -998
"""As the kubelet gives its own pod infrastructure: the last to go."""
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""As the kubelet asks for containers. Who may trace the process reaches its /proc."""


@dataclass(frozen=True, slots=True)
class PodSecurityFacts:
    """What is read beforehand: see the fields of the same names in `ContainerInputs`."""

    profiles: frozenset[str] = frozenset()
    selinux_level: str = ""
    seccomp_profile: bytes | None = None


@dataclass(frozen=True, slots=True)
class PodConfinement:
    """CRI LinuxSandboxSecurityContext.seccomp, .apparmor and .selinux_options in the OCI's terms."""

    seccomp: oci.Seccomp | None
    apparmor_profile: str
    process_label: str
    file_label: str


def pod_confinement(config: SandboxConfig, host: HostFacts, facts: PodSecurityFacts) -> PodConfinement:
    """InvalidRequest for a profile that is not there, whether or not the pod has a process for it."""
    security = config.security
    process, files = pod_labels(config, host, facts.selinux_level)
    return PodConfinement(
        seccomp=None
        if security.privileged
        else chosen_filter(security.seccomp, host, frozenset(), facts.seccomp_profile),
        apparmor_profile=confinement(
            security.apparmor,
            privileged=security.privileged,
            enabled=host.apparmor,
            loaded=facts.profiles,
        ),
        process_label=process,
        file_label=files,
    )


@dataclass(frozen=True, slots=True)
class InfraInputs:
    """The inputs of `infra_spec`."""

    sandbox: str
    """Id of the pod."""
    config: SandboxConfig
    host: HostFacts
    oci_version: str
    root: str
    """Absolute path of the root that all infra processes share, with `program` in it."""
    program: str
    cgroups_path: str
    namespaces: Mapping[str, str]
    """The pod's own that are pinned: path by type, in the words of the OCI runtime spec."""
    confinement: PodConfinement
    seccomp_filter: str = ""
    """See ContainerInputs."""
    holds_containers: bool = False
    """It is the sandbox container of its pod."""


def infra_spec(inputs: InfraInputs) -> oci.Spec:
    """No capabilities, a read-only root, the pod's namespaces and confinement, and new pids and mounts."""
    security, confinement = inputs.config.security, inputs.confinement
    user = security.run_as_user if security.run_as_user is not None else _NOBODY
    group = security.run_as_group if security.run_as_group is not None else user
    joined = (oci.Namespace(type=kind, path=path) for kind, path in inputs.namespaces.items())
    uids, gids = id_mappings(inputs.config)
    return oci.Spec(
        oci_version=inputs.oci_version,
        process=oci.Process(
            user=oci.User(uid=user, gid=group, additional_gids=security.supplemental_groups),
            args=(f"/{inputs.program}", "-P"),
            cwd="/",
            capabilities=oci.Capabilities(),
            no_new_privileges=True,
            oom_score_adj=oom_score_adj(_OOM_SCORE, inputs.host),
            apparmor_profile=confinement.apparmor_profile,
            selinux_label=confinement.process_label,
        ),
        root=oci.Root(path=inputs.root, readonly=True),
        mounts=(
            # Not read-only as a whole: runc sets the process's label through it.
            oci.Mount(destination="/proc", type="proc", source="proc", options=("nosuid", "noexec", "nodev")),
            # Without it the runtime would make its default device nodes in the root that all pods share.
            oci.Mount(
                destination="/dev",
                type="tmpfs",
                source="tmpfs",
                options=("nosuid", "noexec", "mode=755", "size=64k"),
            ),
        ),
        hostname=inputs.config.hostname if inputs.holds_containers else "",
        annotations={**compiled_filter(inputs.seccomp_filter), **_sandbox_annotations(inputs)},
        linux=oci.Linux(
            namespaces=(oci.Namespace(type="pid"), oci.Namespace(type="mount"), *joined),
            uid_mappings=uids,
            gid_mappings=gids,
            cgroups_path=inputs.cgroups_path,
            readonly_paths=_READ_ONLY,
            resources=oci.Resources(
                # The least of the CPU is enough for one that does nothing, and not for all of a pod.
                cpu=None if inputs.holds_containers else oci.Cpu(shares=2),
                devices=(oci.DeviceRule(allow=False),),
            ),
            seccomp=confinement.seccomp,
            mount_label=confinement.file_label,
        ),
    )


def _sandbox_annotations(inputs: InfraInputs) -> dict[str, str]:
    """By which runtimes know it from the containers that name its id (`annotations.spec_annotations`)."""
    if not inputs.holds_containers:
        return {}
    metadata = inputs.config.metadata
    return {
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": inputs.sandbox,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }
