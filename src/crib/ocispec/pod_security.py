"""The pod's own security context: what holds for its infra process, and is checked where there is none."""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.facts import HostFacts
from crib.model.sandbox import SandboxConfig
from crib.ocispec.seccomp import chosen_filter
from crib.ocispec.security import confinement
from crib.ocispec.selinux import pod_labels
from crib.wire import oci_runtime as oci


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
