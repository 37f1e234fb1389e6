"""Which system calls a container may make: our own default profile, a profile of the host, or none.

The default profile is a list of what is allowed. What is left out lets a process reach past its namespaces
(kexec, module loading, mounting, clocks, raw block of the kernel's keyrings, ...) or is a frequent way into
the kernel (userfaultfd, bpf, perf, io_uring). Capabilities that a container was given bring the calls that
they are for.
"""

from __future__ import annotations

from crib.model.errors import InvalidRequest
from crib.model.sandbox import ProfileType
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.security import capabilities
from crib.ocispec.syscalls import ALLOWED, BY_CAPABILITY
from crib.wire import oci_runtime as oci

_FIELD = "config.linux.security_context.seccomp"
_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_EPERM = 1
_ENOSYS = 38
_ARCHITECTURES = {
    "amd64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "arm64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} (clone(2))."""
_AF_VSOCK = 40
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26 with either, and the question (personality(2))."""


def seccomp(inputs: ContainerInputs) -> oci.Seccomp | None:
    """CRI SecurityProfile: none when nothing is said (unconfined), and never for privileged containers."""
    profile = inputs.config.security.seccomp
    if profile is None or profile.kind == ProfileType.UNCONFINED or inputs.privileged:
        return None
    if not inputs.host.seccomp:
        raise InvalidRequest("this host's kernel has no seccomp filters", field=_FIELD)
    if profile.kind == ProfileType.LOCALHOST:
        return _localhost(inputs, profile.localhost_ref)
    granted = capabilities(inputs).bounding
    return default_profile(frozenset(granted), inputs.host.architecture)


def _localhost(inputs: ContainerInputs, reference: str) -> oci.Seccomp:
    if inputs.seccomp_profile is None:
        raise InvalidRequest(f"profile {reference!r} is not there", field=f"{_FIELD}.localhost_ref")
    try:
        return oci.decode_seccomp(inputs.seccomp_profile)
    except ValueError as error:
        raise InvalidRequest(
            f"{reference} is not a seccomp profile of the OCI's shape: {error}",
            field=f"{_FIELD}.localhost_ref",
        ) from error


def default_profile(granted: frozenset[str], architecture: str) -> oci.Seccomp:
    """Our profile for a container with these CAP_… names."""
    allowed = set(ALLOWED)
    for capability in granted:
        allowed.update(BY_CAPABILITY.get(capability, ()))
    rules = [oci.SeccompRule(names=tuple(sorted(allowed)), action=_ALLOW)]
    rules += [
        oci.SeccompRule(names=("personality",), action=_ALLOW, args=(_argument(0, value, "SCMP_CMP_EQ"),))
        for value in _PERSONALITIES
    ]
    # Virtual sockets reach the hypervisor past every namespace.
    rules.append(
        oci.SeccompRule(names=("socket",), action=_ALLOW, args=(_argument(0, _AF_VSOCK, "SCMP_CMP_NE"),))
    )
    if "CAP_SYS_ADMIN" not in granted:
        without_namespaces = oci.SeccompArg(
            index=0, value=_NEW_NAMESPACES, op="SCMP_CMP_MASKED_EQ", value_two=0
        )
        rules.append(oci.SeccompRule(names=("clone",), action=_ALLOW, args=(without_namespaces,)))
        # A filter cannot see the flags of clone3, which are in memory; with ENOSYS the C library goes back
        # to clone.
        rules.append(oci.SeccompRule(names=("clone3",), action=_ERRNO, errno_ret=_ENOSYS))
    return oci.Seccomp(
        default_action=_ERRNO,
        default_errno_ret=_EPERM,
        architectures=_ARCHITECTURES.get(architecture, ()),
        syscalls=tuple(rules),
    )


def _argument(index: int, value: int, op: str) -> oci.SeccompArg:
    return oci.SeccompArg(index=index, value=value, op=op)
