"""Containers whose command is systemd, and whose processes may make cgroups below their own.

systemd as the first process needs what its container interface says (systemd.io/CONTAINER_INTERFACE): a tree
of cgroup v2 that it may write to, tmpfs at /run, /run/lock and /tmp, the variable `container`, and SIGRTMIN+3
to stop.

Who may write to the cgroup tree is kept within the container by its cgroup namespace, and from its own limits
by the mount option nsdelegate (kernel, admin-guide/cgroup-v2, Delegation). Without either nobody gets it.
"""

from __future__ import annotations

from crib.model.errors import InvalidRequest
from crib.model.sandbox import NamespaceMode
from crib.ocispec.defaults import annotation
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

WRITABLE = ("io.crib.writable-cgroups", "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw")
SYSTEMD = "systemd"
STOP_SIGNAL_KEY = "org.opencontainers.image.stopSignal"
"""image-spec, conversion.md."""
_STOP_SIGNAL = "SIGRTMIN+3"
PLACES = ("/run", "/run/lock", "/tmp")  # noqa: S108 - of the container
_MODES = {"/tmp": "mode=1777"}  # noqa: S108
_OPTIONS = ("nosuid", "nodev", "strictatime")


def is_systemd(inputs: ContainerInputs) -> bool:
    """Whether its first process is systemd, and can be that here."""
    config = inputs.config
    alone = config.security.namespaces.pid == NamespaceMode.CONTAINER
    return (
        inputs.rootfs.init == SYSTEMD and alone and (config.security.privileged or writable_cgroups(inputs))
    )


def writable_cgroups(inputs: ContainerInputs) -> bool:
    """By annotation, else as the node has it. InvalidRequest for an annotation that says neither."""
    asked = annotation(WRITABLE, inputs.sandbox.config, inputs.config, inputs.options.annotations)
    choice = inputs.options.containers.writable_cgroups
    if asked is not None:
        if asked.value not in ("true", "false"):
            raise InvalidRequest(
                f"{asked.value[:80]!r} is neither true nor false", field=asked.field, of=asked.of
            )
        choice = "always" if asked.value == "true" else "never"
    wanted = choice == "always" or (choice == SYSTEMD and inputs.rootfs.init == SYSTEMD)
    return wanted and inputs.host.cgroup_delegation


def systemd_mounts(inputs: ContainerInputs) -> list[oci.Mount]:
    """What it needs to find mounted, besides the cgroup tree."""
    if not is_systemd(inputs):
        return []
    return [
        oci.Mount(
            destination=place,
            type="tmpfs",
            source="tmpfs",
            options=(*_OPTIONS, _MODES.get(place, "mode=755")),
        )
        for place in PLACES
    ]


def systemd_variables(inputs: ContainerInputs) -> dict[str, str]:
    """How it finds out that it is in a container."""
    return {"container": "crib"} if is_systemd(inputs) else {}


def systemd_annotations(inputs: ContainerInputs) -> dict[str, str]:
    """Its stop signal, where neither the image nor the container names one."""
    named = inputs.config.stop_signal or inputs.image.stop_signal
    return {STOP_SIGNAL_KEY: _STOP_SIGNAL} if is_systemd(inputs) and not named else {}
