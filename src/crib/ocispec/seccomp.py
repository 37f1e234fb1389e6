"""Which system calls a container may make: our own default profile, a profile of the host, or none.

The default profile is a list of what is allowed. What is left out lets a process reach past its namespaces
(kexec, module loading, mounting, setting clocks, the kernel's keyrings, ...) or is a frequent way into the
kernel (userfaultfd, bpf, perf, io_uring, sockets of AF_ALG). Capabilities that a container was given bring
the calls that they are for. 32-bit programs may call socketcall(2), as moby's profile lets them: what it asks
for lies in memory, where no filter sees it, and without the call many of them do not run.
"""

from __future__ import annotations

import functools

from crib.model.errors import InvalidRequest
from crib.model.facts import HostFacts
from crib.model.sandbox import ProfileType, SecurityProfile
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.security import capabilities
from crib.ocispec.syscalls import ALLOWED, BY_ARCHITECTURE, BY_CAPABILITY
from crib.wire import oci_runtime as oci

_FIELD = "linux.security_context.seccomp"
_ALLOW = "SCMP_ACT_ALLOW"
_ERRNO = "SCMP_ACT_ERRNO"
_EPERM = 1
_ENOSYS = 38
_ARCHITECTURES = {
    "386": ("X86",),
    "amd64": ("X86_64", "X86", "X32"),
    "arm": ("ARM",),
    "arm64": ("AARCH64", "ARM"),
    "loong64": ("LOONGARCH64",),
    "mips64": ("MIPS64", "MIPS", "MIPS64N32"),
    "mips64le": ("MIPSEL64", "MIPSEL", "MIPSEL64N32"),
    "ppc64le": ("PPC64LE",),
    "riscv64": ("RISCV64",),
    "s390x": ("S390X", "S390"),
}
"""The OCI's name of an architecture to it and its kin that the kernel runs too (seccomp_arch_add(3))."""
_CLONE_FLAGS_SECOND = frozenset({"s390x"})
"""Where clone's first two arguments are the other way round (clone(2))."""
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} (clone(2))."""
_AF_ALG = 38
_AF_VSOCK = 40
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26 with either, and the question (personality(2))."""


def seccomp(inputs: ContainerInputs) -> oci.Seccomp | None:
    """CRI SecurityProfile: none when nothing is said (unconfined), and never for privileged containers."""
    if inputs.privileged:
        return None
    granted = frozenset(capabilities(inputs).bounding)
    profile = inputs.config.security.seccomp
    is_default = profile is not None and profile.kind == ProfileType.RUNTIME_DEFAULT
    content = inputs.default_seccomp if is_default else inputs.seccomp_profile
    found = chosen_filter(profile, inputs.host, granted, content)
    if found is not None and found.listener_path and inputs.handler.own_kernel:
        raise InvalidRequest(
            f"handler {inputs.handler.name} runs pods on a kernel of their own, which asks no agent"
            f" ({found.listener_path})",
            field=_FIELD,
        )
    return found


def chosen_filter(
    profile: SecurityProfile | None, host: HostFacts, granted: frozenset[str], content: bytes | None
) -> oci.Seccomp | None:
    """The filter for a process with these CAP_… names.

    `content` is that of the localhost profile, or of the node's in place of our default.
    """
    if profile is None or profile.kind == ProfileType.UNCONFINED:
        return None
    if not host.seccomp:
        raise InvalidRequest("this host's kernel has no seccomp filters", field=_FIELD)
    if profile.kind == ProfileType.LOCALHOST:
        return _localhost(content, profile.localhost_ref)
    return default_profile(granted, host.architecture) if content is None else oci.decode_seccomp(content)


def _localhost(content: bytes | None, reference: str) -> oci.Seccomp:
    if content is None:
        raise InvalidRequest(f"profile {reference!r} is not there", field=f"{_FIELD}.localhost_ref")
    try:
        return oci.decode_seccomp(content)
    except ValueError as error:
        raise InvalidRequest(
            f"{reference} is not a seccomp profile of the OCI's shape: {error}",
            field=f"{_FIELD}.localhost_ref",
        ) from error


@functools.lru_cache(maxsize=64)
def default_profile(granted: frozenset[str], architecture: str) -> oci.Seccomp:
    """Our profile for a container with these CAP_… names on an architecture (its OCI name)."""
    allowed = set(ALLOWED | BY_ARCHITECTURE.get(architecture, frozenset()))
    for capability in granted:
        allowed |= BY_CAPABILITY.get(capability, frozenset())
    rules = [oci.SeccompRule(names=tuple(sorted(allowed)), action=_ALLOW)]
    rules += [_allow("personality", 0, value, "SCMP_CMP_EQ") for value in _PERSONALITIES]
    # Virtual sockets reach the hypervisor past every namespace, and AF_ALG the kernel's ciphers. One rule
    # with two conditions on an argument would be read by runc as two rules, and so allow both: hence ranges.
    rules.append(_allow("socket", 0, _AF_ALG, "SCMP_CMP_LT"))
    rules += [_allow("socket", 0, family, "SCMP_CMP_EQ") for family in range(_AF_ALG + 1, _AF_VSOCK)]
    rules.append(_allow("socket", 0, _AF_VSOCK, "SCMP_CMP_GT"))
    if "CAP_SYS_ADMIN" not in granted:
        flags = 1 if architecture in _CLONE_FLAGS_SECOND else 0
        rules.append(_allow("clone", flags, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ"))
        # A filter cannot see the flags of clone3, which are in memory; with ENOSYS the C library goes back
        # to clone.
        rules.append(oci.SeccompRule(names=("clone3",), action=_ERRNO, errno_ret=_ENOSYS))
    return oci.Seccomp(
        default_action=_ERRNO,
        default_errno_ret=_EPERM,
        architectures=tuple(f"SCMP_ARCH_{name}" for name in _ARCHITECTURES.get(architecture, ())),
        syscalls=tuple(rules),
    )


def _allow(call: str, index: int, value: int, op: str) -> oci.SeccompRule:
    return oci.SeccompRule(names=(call,), action=_ALLOW, args=(oci.SeccompArg(index, value, op),))
