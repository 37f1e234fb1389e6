"""A container's `volumeMounts` and `volumeDevices`."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.environment import expand, unknown_names
from crib.manifest.fields import nearest
from crib.manifest.plan import SubPathPlan, VolumePlan
from crib.stubs.runtime.v1.api_pb2 import (
    PROPAGATION_BIDIRECTIONAL,
    PROPAGATION_HOST_TO_CONTAINER,
    PROPAGATION_PRIVATE,
    Device,
    ImageSpec,
    Mount,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.manifest.fields import ManifestNode
    from crib.manifest.plan import Dirs

_BIND_OPTIONS = ("nodev", "noexec", "nosuid")
_PROPAGATION = {
    "None": PROPAGATION_PRIVATE,
    "HostToContainer": PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": PROPAGATION_BIDIRECTIONAL,
}


def mounts(
    container: ManifestNode, volumes: Mapping[str, VolumePlan], pod: tuple[Dirs, str], env: Mapping[str, str]
) -> tuple[list[Mount], tuple[SubPathPlan, ...]]:
    """A container's mounts, and which of them are parts of a volume that are bound first.

    `pod` is where pods' files are, and the pod's uid.
    """
    dirs, uid = pod
    found: list[Mount] = []
    parts: list[SubPathPlan] = []
    name = container.text("name")
    for index, node in enumerate(container.children("volumeMounts")):
        node.check(shapes.VOLUME_MOUNT)
        volume = _named(node, volumes)
        if volume.claim is not None and volume.claim.spec.block:
            node.wrong("name", f"volume {volume.name!r} is a device (volumeMode: Block): use volumeDevices")
        mount = _mount(container, node, volume)
        if any(other.container_path == mount.container_path for other in found):
            node.wrong("mountPath", f"{mount.container_path} is mounted twice")
        inside = _sub_path(node, env)
        if inside and volume.kind == "image":
            mount.image_sub_path = inside
        elif inside:
            target = dirs.sub_path(uid, name, index)
            generated = volume.kind == "files"
            parts.append(SubPathPlan(len(found), volume.path, inside, target, generated))
            mount.host_path = target
        found.append(mount)
    return found, tuple(parts)


def devices(
    container: ManifestNode, volumes: Mapping[str, VolumePlan], *, own_users: bool = False
) -> list[Device]:
    """Volumes that a container gets as devices. `own_users`: the pod has a user namespace."""
    found: list[Device] = []
    if own_users and container.children("volumeDevices"):
        # As in Kubernetes (user namespaces, limitations): a device keeps its owner, who is nobody in there.
        container.wrong("volumeDevices", "cannot be had together with hostUsers: false")
    for node in container.children("volumeDevices"):
        node.check(shapes.VOLUME_DEVICE)
        volume = _named(node, volumes)
        if node.raw("name") in volumes and (volume.claim is None or not volume.claim.spec.block):
            node.wrong("name", f"volume {volume.name!r} is no claim of volumeMode: Block: use volumeMounts")
        path = node.need_text("devicePath")
        if path and (not path.startswith("/") or ".." in path.split("/")):
            node.wrong("devicePath", f"{path!r} must be an absolute path without '..'")
        path = posixpath.normpath(path) if path else path
        if any(other.container_path == path for other in found):
            node.wrong("devicePath", f"{path} is there twice")
        if any(mount.raw("mountPath") == path for mount in container.children("volumeMounts")):
            node.wrong("devicePath", f"{path} is a mountPath as well")
        permissions = "r" if volume.read_only else "mrw"
        found.append(Device(container_path=path, host_path=volume.path, permissions=permissions))
    return found


def _named(node: ManifestNode, volumes: Mapping[str, VolumePlan]) -> VolumePlan:
    """The pod's volume of that name; an empty one if it is wrong."""
    wanted = node.need_text("name")
    volume = volumes.get(wanted)
    if volume is None and wanted:
        node.wrong("name", f"the pod has no volume {wanted!r}{nearest(wanted, list(volumes))}")
    return volume or VolumePlan(wanted, "emptyDir")


def _mount(container: ManifestNode, node: ManifestNode, volume: VolumePlan) -> Mount:
    path = node.need_text("mountPath")
    if ":" in path:
        node.wrong("mountPath", f"{path!r} must not hold a colon")
    if not path.startswith("/"):
        path = f"/{path}"  # as Kubernetes reads a relative one
    read_only = bool(node.flag("readOnly")) or volume.read_only or volume.kind in ("image", "files")
    propagation = node.choice("mountPropagation", tuple(_PROPAGATION), "None")
    security = container.child("securityContext")
    if propagation == "Bidirectional" and not (security and security.flag("privileged")):
        node.wrong("mountPropagation", "Bidirectional needs a privileged container")
    return Mount(
        container_path=posixpath.normpath(path),
        host_path=volume.path,
        readonly=read_only,
        propagation=_PROPAGATION[propagation],
        recursive_read_only=_recursive(node, read_only=read_only, propagation=propagation),
        image=_image(volume.image) if volume.kind == "image" else None,
        mount_options=_bind_options(node),
        selinux_relabel=volume.kind
        in ("emptyDir", "files", "claim"),  # as a kubelet does with what it makes for the pod
    )


def _image(name: str) -> ImageSpec:
    return ImageSpec(image=name, user_specified_image=name)


def _bind_options(node: ManifestNode) -> list[str]:
    """KEP-5855: restrictions of this one mount."""
    options = node.texts("bindMountOptions")
    for option in options:
        if option not in _BIND_OPTIONS:
            node.wrong("bindMountOptions", f"{option!r} is not one of {', '.join(_BIND_OPTIONS)}")
    return options


def _recursive(node: ManifestNode, *, read_only: bool, propagation: str) -> bool:
    word = node.choice("recursiveReadOnly", ("Disabled", "IfPossible", "Enabled"), "Disabled")
    if word == "Disabled":
        return False
    if not read_only:
        node.wrong("recursiveReadOnly", f"{word} needs readOnly: true")
    if propagation != "None":
        node.wrong("recursiveReadOnly", f"{word} needs mountPropagation: None")
    if word == "IfPossible":
        node.notes.add(node.at("recursiveReadOnly"), "taken as Disabled; write Enabled to have it")
        return False
    return True


def _sub_path(node: ManifestNode, env: Mapping[str, str]) -> str:
    name, inside = "subPath", node.text("subPath")
    if node.text("subPathExpr"):
        if inside:
            node.wrong("subPathExpr", "cannot be had together with subPath")
        name, text = "subPathExpr", node.text("subPathExpr")
        if unknown := unknown_names(text, env):
            node.wrong(name, f"there is no variable {unknown[0]!r}")
        inside = expand(text, env)
    if inside.startswith("/"):
        node.wrong(name, f"{inside!r} must be a relative path")
        return ""
    if ".." in inside.split("/"):
        node.wrong(name, f"{inside!r} must not hold '..'")
        return ""
    normal = posixpath.normpath(inside) if inside else "."
    return "" if normal == "." else normal
