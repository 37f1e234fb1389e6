"""`spec.volumes` and a container's `volumeMounts`."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.fields import ManifestNode, check_label, nearest, unique
from crib.manifest.plan import HOST_PATH_TYPES, PullPolicy, SubPathPlan, VolumePlan
from crib.manifest.quantity import parse_quantity, whole
from crib.stubs.runtime.v1.api_pb2 import (
    PROPAGATION_BIDIRECTIONAL,
    PROPAGATION_HOST_TO_CONTAINER,
    PROPAGATION_PRIVATE,
    ImageSpec,
    Mount,
)

if TYPE_CHECKING:
    from crib.manifest.plan import Dirs

_BIND_OPTIONS = ("nodev", "noexec", "nosuid")
_PROPAGATION = {
    "None": PROPAGATION_PRIVATE,
    "HostToContainer": PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": PROPAGATION_BIDIRECTIONAL,
}
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


def volume_plans(spec: ManifestNode, dirs: Dirs, uid: str) -> dict[str, VolumePlan]:
    """Every volume of the pod by name."""
    found: dict[str, VolumePlan] = {}
    for node in unique(spec.children("volumes"), "name", "volume"):
        node.check(shapes.VOLUME)
        name = check_label(node, "name")
        kinds = [kind for kind in ("emptyDir", "hostPath", "image") if node.has(kind)]
        if len(kinds) == 1:
            found[name] = _volume(node, kinds[0], name, dirs.volume(uid, name))
            continue
        found[name] = VolumePlan(name, "emptyDir")  # for those who mount it
        words = "one of emptyDir, hostPath, image"
        if kinds:
            node.wrong("", f"has more than {words}")
        elif not any(known in shapes.VOLUME.refused for known in node.names()):
            node.wrong("", f"needs {words}")
    return found


def _volume(node: ManifestNode, kind: str, name: str, directory: str) -> VolumePlan:
    source = node.part(kind)
    if kind == "emptyDir":
        return _empty_dir(source, name, directory)
    if kind == "hostPath":
        source.check(shapes.HOST_PATH)
        path = source.need_text("path")
        _check_absolute(path, source)
        host_type = source.choice("type", HOST_PATH_TYPES, "")
        return VolumePlan(name, "hostPath", path=path, host_type=host_type)
    source.check(shapes.IMAGE_VOLUME)
    reference = source.need_text("reference")
    return VolumePlan(name, "image", image=reference, pull=pull_policy(source, "pullPolicy", reference))


def _empty_dir(source: ManifestNode, name: str, directory: str) -> VolumePlan:
    source.check(shapes.EMPTY_DIR)
    medium = source.text("medium")
    if medium.startswith("HugePages"):
        source.wrong("medium", "not supported: volumes of huge pages need a kubelet")
    else:
        source.choice("medium", ("", "Memory"), "")
    size = 0
    if source.has("sizeLimit"):
        try:
            size = whole(parse_quantity(source.raw("sizeLimit")))
        except ValueError as error:
            source.wrong("sizeLimit", str(error))
        if not medium:
            source.notes.add(source.at("sizeLimit"), "not enforced: on disk it is a kubelet's work")
    return VolumePlan(name, "emptyDir", path=directory, memory=bool(medium), size=size)


def pull_policy(node: ManifestNode, name: str, image: str) -> PullPolicy:
    """The policy, with Kubernetes' default: Always for the tag latest, else IfNotPresent.

    Images of the host name `localhost` are made here and have no registry, so for them it is IfNotPresent.
    """
    last = image.rsplit("/", 1)[-1]
    tag = last.split("@", 1)[0].partition(":")[2]
    moving = "@" not in last and tag in ("", "latest") and not image.startswith("localhost/")
    word = node.choice(name, PULL_POLICIES, "Always" if moving else "IfNotPresent")
    if word == "Always":
        return "Always"
    return "Never" if word == "Never" else "IfNotPresent"


def mounts(
    container: ManifestNode, volumes: dict[str, VolumePlan], dirs: Dirs, uid: str
) -> tuple[list[Mount], tuple[SubPathPlan, ...]]:
    """A container's mounts, and which of them are parts of a volume that are bound first."""
    found: list[Mount] = []
    parts: list[SubPathPlan] = []
    name = container.text("name")
    for index, node in enumerate(container.children("volumeMounts")):
        node.check(shapes.VOLUME_MOUNT)
        wanted = node.need_text("name")
        volume = volumes.get(wanted)
        if volume is None:
            if wanted:
                node.wrong("name", f"the pod has no volume {wanted!r}{nearest(wanted, list(volumes))}")
            volume = VolumePlan(wanted, "emptyDir")
        mount = _mount(container, node, volume)
        if any(other.container_path == mount.container_path for other in found):
            node.wrong("mountPath", f"{mount.container_path} is mounted twice")
        inside = _sub_path(node)
        if inside and volume.kind == "image":
            mount.image_sub_path = inside
        elif inside:
            target = dirs.sub_path(uid, name, index)
            parts.append(SubPathPlan(len(found), volume.path, inside, target))
            mount.host_path = target
        found.append(mount)
    return found, tuple(parts)


def _mount(container: ManifestNode, node: ManifestNode, volume: VolumePlan) -> Mount:
    path = node.need_text("mountPath")
    if ":" in path:
        node.wrong("mountPath", f"{path!r} must not hold a colon")
    if not path.startswith("/"):
        path = f"/{path}"  # as Kubernetes reads a relative one
    read_only = bool(node.flag("readOnly")) or volume.kind == "image"
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
        image=ImageSpec(image=volume.image) if volume.kind == "image" else None,
        mount_options=_bind_options(node),
        selinux_relabel=volume.kind == "emptyDir",  # as a kubelet does with what it makes for the pod
    )


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


def _sub_path(node: ManifestNode) -> str:
    inside = node.text("subPath")
    if not inside:
        return ""
    if inside.startswith("/"):
        node.wrong("subPath", f"{inside!r} must be a relative path")
        return ""
    if ".." in inside.split("/"):
        node.wrong("subPath", f"{inside!r} must not hold '..'")
        return ""
    normal = posixpath.normpath(inside)
    return "" if normal == "." else normal


def _check_absolute(path: str, node: ManifestNode) -> None:
    if path and not path.startswith("/"):
        node.wrong("path", f"{path!r} must be an absolute path")
    if ".." in path.split("/"):
        node.wrong("path", f"{path!r} must not hold '..'")
