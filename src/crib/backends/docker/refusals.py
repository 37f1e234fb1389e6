"""Fields of a spec that the Engine has no word for: refused by name, never left out. Pure."""

from __future__ import annotations

from collections.abc import Callable

from crib.backends.docker.mounts import needs_privileges
from crib.model.errors import InvalidRequest
from crib.wire import oci_runtime as oci

_CONTEXT = "linux.security_context"
_UMASK = 0o022

Rule = tuple[str, str, Callable[[oci.Spec], object]]
"""The CRI field to blame (empty: a setting or a plugin), what is said, and whether it is there."""


def _ambient(spec: oci.Spec) -> object:
    held = spec.process.capabilities
    return held is not None and (held.ambient or held.inheritable)


def _seccomp(spec: oci.Spec) -> oci.Seccomp:
    return spec.linux.seccomp or oci.Seccomp("")


def _limits(spec: oci.Spec) -> oci.Resources:
    return spec.linux.resources or oci.Resources()


RULES: tuple[Rule, ...] = (
    (f"{_CONTEXT}.capabilities.add_ambient_capabilities", "it has no ambient capabilities", _ambient),
    (f"{_CONTEXT}.seccomp", "its profiles ask no agent", lambda spec: _seccomp(spec).listener_path),
    ("", "it starts no hooks (oci_hooks_dirs, CDI, node plugins)", lambda spec: spec.hooks),
    (
        "annotations",
        "it sets no umask (containers.umask, the annotation io.kubernetes.cri-o.umask)",
        lambda spec: spec.process.user.umask not in (None, _UMASK),
    ),
    ("annotations", "it has no classes of block I/O", lambda spec: _limits(spec).block_io),
    ("", "it has no RDT classes", lambda spec: spec.linux.intel_rdt),
    ("", "it moves no network devices", lambda spec: spec.linux.net_devices),
    ("", "it sets no memory policy", lambda spec: spec.linux.memory_policy),
    ("", "it sets no scheduler", lambda spec: spec.process.scheduler),
    ("", "it sets no I/O priority", lambda spec: spec.process.io_priority),
    (
        f"{_CONTEXT}.namespace_options.userns_options",
        "its containers have no user namespaces of their own",
        lambda spec: spec.linux.uid_mappings or spec.linux.gid_mappings,
    ),
    (
        f"{_CONTEXT}.privileged",
        "only privileged containers may write to /sys/fs/cgroup (also those of systemd)",
        lambda spec: needs_privileges(spec.mounts) and not _is_unmasked(spec),
    ),
)


def _is_unmasked(spec: oci.Spec) -> bool:
    """As privileged containers are, and they only: /sys itself can be written to."""
    return any(
        mount.destination == "/sys" and mount.type == "sysfs" and "ro" not in mount.options
        for mount in spec.mounts
    )


def refuse_unknown(spec: oci.Spec) -> None:
    """InvalidRequest for the first that is there."""
    for field, words, is_there in RULES:
        if is_there(spec):
            raise InvalidRequest(f"Docker's Engine cannot do this: {words}", field=field)
