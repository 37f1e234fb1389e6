"""When two requests to create are one: what of a config a kubelet varies from try to try, harmlessly.

A pod sandbox is its metadata, a container its pod, name and attempt. A second request for the same one joins
the first or gets its id, unless it asks for something else: that is AlreadyExists, with the fields. What a
kubelet generates again for each try is no difference (sources: Kubernetes 1.36, pkg/kubelet):

    container  mounts: the host's file for the termination message has a random name
               (kuberuntime_container.go, makeMounts and makeUID); those of device plugins come in the order
               of a Go map (cm/devicemanager/pod_devices.go)
    container  envs, devices, CDI devices: in the order of a Go map (kubelet_pods.go,
               makeEnvironmentVariables; cm/devicemanager/pod_devices.go)
    container  supplemental groups: those of volumes come in the order of a set
               (volumemanager/volume_manager.go, GetExtraSupplementalGroupsForPod)
    pod        annotation config.seen: when this kubelet process first saw the pod (config/config.go,
               recordFirstSeenTime)

Labels, annotations, sysctls, huge pages and unified limits are maps with us too.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import fields, is_dataclass, replace

from crib.model.container import ContainerConfig, Mount, termination_message_path
from crib.model.sandbox import SandboxConfig

_FIRST_SEEN = "kubernetes.io/config.seen"
_RANDOM_NAME = re.compile(r"[0-9a-f]{8}")


def container_differences(wanted: ContainerConfig, known: ContainerConfig) -> tuple[str, ...]:
    """The fields in which two configs ask for different containers."""
    if wanted == known:
        return ()
    return differing_fields(_same_each_try(wanted), _same_each_try(known))


def sandbox_differences(wanted: SandboxConfig, known: SandboxConfig) -> tuple[str, ...]:
    """The fields in which two configs ask for different sandboxes."""
    if wanted == known:
        return ()
    return differing_fields(_without_first_seen(wanted), _without_first_seen(known))


def _same_each_try(config: ContainerConfig) -> ContainerConfig:
    """Lists whose order means nothing in one order, and the random name taken out."""
    groups = tuple(sorted(config.security.supplemental_groups))
    mounts = (_without_random_name(mount, config) for mount in config.mounts)
    return replace(
        config,
        envs=tuple(sorted(config.envs)),
        mounts=tuple(sorted(mounts, key=lambda mount: mount.container_path)),
        devices=tuple(sorted(config.devices, key=lambda device: device.container_path)),
        cdi_devices=tuple(sorted(set(config.cdi_devices))),
        security=replace(config.security, supplemental_groups=groups),
    )


def _without_random_name(mount: Mount, config: ContainerConfig) -> Mount:
    """The kubelet's file for the termination message is PODS/UID/containers/NAME/RANDOM."""
    if termination_message_path(config.annotations) != mount.container_path:
        return mount
    directory, name = posixpath.split(mount.host_path)
    if not directory.endswith(f"/containers/{config.name}") or not _RANDOM_NAME.fullmatch(name):
        return mount
    return replace(mount, host_path=directory)


def _without_first_seen(config: SandboxConfig) -> SandboxConfig:
    annotations = {key: value for key, value in config.annotations.items() if key != _FIRST_SEEN}
    return replace(config, annotations=annotations)


def differing_fields(left: object, right: object, path: str = "") -> tuple[str, ...]:
    """Dotted names of the fields in which two values of one dataclass differ."""
    if left == right:
        return ()
    if not is_dataclass(left) or type(left) is not type(right):
        return (path,)
    found: list[str] = []
    for item in fields(left):
        name = f"{path}.{item.name}" if path else item.name
        found += differing_fields(getattr(left, item.name), getattr(right, item.name), name)
    return tuple(found)
