"""What a pod or container may ask of a host, and no machine gives: refused by the field's name. Pure."""

from __future__ import annotations

import stat

from crib.backends.vm.sizes import MachineSize, memory_for_containers
from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest, below
from crib.model.sandbox import ProfileType, Resources, SandboxConfig, SecurityProfile
from crib.model.vm_settings import MIB, VmSettings

_OPTIONS = "linux.security_context.namespace_options"
_RESOURCES = "linux.resources"
"""Of the configs; an update names its own fields, below which the limits stand."""


def check_pod(config: SandboxConfig) -> None:
    """InvalidRequest. Pids and IPC of the node are refused with every kernel of a pod's own."""
    if config.host_network:
        _refuse("is a machine, which cannot be in the node's network", f"{_OPTIONS}.network")
    if config.user_namespace is not None:
        _refuse("is a machine, which has users of its own already", f"{_OPTIONS}.userns_options")
    _check_apparmor(config.security.apparmor)
    if config.resources is not None:
        with below(_RESOURCES):
            _check_places(config.resources)


def check_container(config: ContainerConfig, size: MachineSize, settings: VmSettings) -> None:
    """InvalidRequest."""
    for position, name in enumerate(config.cdi_devices):
        _refuse(f"is a machine, which {name} of the host cannot be given to", f"CDI_devices[{position}]")
    _check_apparmor(config.security.apparmor)
    with below(_RESOURCES):
        check_limits(config.resources, size, settings)


def check_device(position: int, path: str, mode: int) -> None:
    """InvalidRequest for what is at a device's path, by the `mode` of stat(2), and is no block device."""
    if not stat.S_ISBLK(mode):
        _refuse(f"is a machine, which has no {path} of the host", f"devices[{position}].host_path")


def check_limits(resources: Resources, size: MachineSize, settings: VmSettings) -> None:
    """InvalidRequest for limits that mean nothing in a machine of that size, at a create or later."""
    _check_places(resources)
    for page, limit in resources.hugepage_limits.items():
        if limit > 0:
            _refuse(f"is a machine without huge pages ({page})", "hugepage_limits")
    most = memory_for_containers(size, settings)
    if resources.memory_limit_in_bytes > most:
        _refuse(
            f"is a machine with {most // MIB} MiB for its containers, and keeps that size: the pod's own"
            " resources decide it, or the setting vm.memory of the handler",
            "memory_limit_in_bytes",
        )


def check_resize(resources: Resources, size: MachineSize, settings: VmSettings) -> None:
    """InvalidRequest for a pod that wants more than its machine was made with."""
    check_limits(resources, size, settings)
    period = resources.cpu_period or 100_000
    if resources.cpu_quota > size.cpus * period:
        words = "1 CPU" if size.cpus == 1 else f"{size.cpus} CPUs"
        _refuse(f"is a machine with {words}, and keeps that size", "cpu_quota")


def _check_places(resources: Resources) -> None:
    for name in ("cpuset_cpus", "cpuset_mems"):
        if getattr(resources, name):
            _refuse("is a machine, which does not know the node's CPUs by their numbers", name)


def _check_apparmor(profile: SecurityProfile | None) -> None:
    if profile is not None and profile.kind == ProfileType.LOCALHOST:
        _refuse(
            f"is a machine, whose kernel has not loaded the profile {profile.localhost_ref}",
            "linux.security_context.apparmor",
        )


def _refuse(problem: str, field: str) -> None:
    raise InvalidRequest(f"the pod {problem}", field=field)
