"""Claims, PersistentVolumes and VolumeSnapshots: what each of these documents asks for.

Nothing here chooses among volumes. A claim gets the PersistentVolume that it names, or that names it. Any
other one is made by its storage class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.claim_plan import ACCESS_MODES, ClaimSource, ClaimSpec, DriverPlan
from crib.manifest.fields import check_subdomain
from crib.manifest.plan import HOST_PATH_TYPES
from crib.manifest.quantity import parse_quantity, whole

if TYPE_CHECKING:
    from crib.manifest.fields import ManifestNode

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"
_KINDS_OF_PERSISTENT = ("hostPath", "local", "csi")


@dataclass(frozen=True, slots=True)
class HostDirectory:
    """A path of the host that a claim is given as it is. `type` as in a `hostPath`."""

    path: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A claim's document. `volume` is the PersistentVolume that it wants; empty: none."""

    spec: ClaimSpec
    volume: str = ""
    snapshot: str = ""
    """The snapshot that it begins as."""


@dataclass(frozen=True, slots=True)
class PersistentVolume:
    """A volume that is there already: a directory of the host, or what `spec` says."""

    spec: ClaimSpec
    directory: HostDirectory | None = None
    claim: tuple[str, str] = ("", "")
    """Namespace and name of the claim that it is for; no name: it does not say."""
    read_only: bool = False


def claim_request(spec: ManifestNode) -> ClaimRequest:
    """The `spec` of a claim, or of a template of one."""
    spec.check(shapes.CLAIM_SPEC)
    source = _data_source(spec)
    found = ClaimSpec(
        storage_class=_storage_class(spec),
        size=_size(spec),
        access_modes=_access_modes(spec),
        block=_is_block(spec),
        source=source,
    )
    volume = check_subdomain(spec, "volumeName") if spec.text("volumeName") else ""
    if volume and source is not None:
        spec.wrong("volumeName", "cannot be had together with dataSource: that volume is there already")
    return ClaimRequest(found, volume, source.name if source is not None and source.is_snapshot else "")


def _storage_class(spec: ManifestNode) -> str:
    if spec.raw("storageClassName") == "" and not spec.has("volumeName"):
        spec.notes.add(spec.at("storageClassName"), "empty: taken as the default class")
    return check_subdomain(spec, "storageClassName") if spec.text("storageClassName") else ""


def _is_block(spec: ManifestNode) -> bool:
    return spec.choice("volumeMode", ("Filesystem", "Block"), "Filesystem") == "Block"


def _access_modes(spec: ManifestNode) -> tuple[str, ...]:
    modes = spec.texts("accessModes")
    for index, mode in enumerate(modes):
        if mode not in ACCESS_MODES:
            known = ", ".join(ACCESS_MODES)
            spec.faults.add(spec.item("accessModes", index), f"{mode!r} is not one of {known}")
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        spec.wrong("accessModes", "ReadWriteOncePod cannot be had together with another mode")
    return tuple(modes)


def _size(spec: ManifestNode) -> int:
    resources = spec.part("resources")
    resources.check(shapes.CLAIM_RESOURCES)
    asked, most = _storage(resources, "requests"), _storage(resources, "limits")
    if asked and most and asked > most:
        resources.part("requests").wrong("storage", "is greater than the limit")
    return asked or most


def _storage(resources: ManifestNode, which: str) -> int:
    node, found = resources.part(which), 0
    for name in node.names():
        if name == "storage":
            found = read_size(node, name)
        else:
            node.wrong(name, "not supported: a claim has an amount of storage only")
    return found


def read_size(node: ManifestNode, name: str) -> int:
    """A quantity in bytes; 0 if it is absent or wrong."""
    if not node.has(name):
        return 0
    try:
        return whole(parse_quantity(node.raw(name)))
    except ValueError as error:
        node.wrong(name, str(error))
        return 0


def _data_source(spec: ManifestNode) -> ClaimSource | None:
    """`dataSource` and `dataSourceRef` mean the same here, and an API server writes one into the other."""
    found: ClaimSource | None = None
    for name, shape in (("dataSource", shapes.DATA_SOURCE), ("dataSourceRef", shapes.DATA_SOURCE_REF)):
        node = spec.child(name)
        if node is None:
            continue
        node.check(shape)
        one = ClaimSource(_is_snapshot(node), check_subdomain(node, "name"))
        if found is not None and one != found:
            node.wrong("", "is another one than dataSource")
        found = one
    return found


def _is_snapshot(node: ManifestNode) -> bool:
    kind, group = node.need_text("kind"), node.text("apiGroup")
    wanted = {"VolumeSnapshot": SNAPSHOT_GROUP, "PersistentVolumeClaim": ""}
    if kind and kind not in wanted:
        node.wrong("kind", f"{kind!r} is not one of {', '.join(wanted)}")
    elif kind and group != wanted[kind]:
        node.wrong("apiGroup", f"must be {wanted[kind] or 'empty'!r} for a {kind}")
    return kind == "VolumeSnapshot"


def snapshot_claim(spec: ManifestNode) -> str:
    """The `spec` of a VolumeSnapshot: the claim that it is taken of."""
    spec.check(shapes.SNAPSHOT_SPEC)
    source = spec.child("source")
    if source is None:
        spec.wrong("source", "is required")
        return ""
    source.check(shapes.SNAPSHOT_SOURCE)
    if source.has("volumeSnapshotContentName"):
        return ""
    return check_subdomain(source, "persistentVolumeClaimName")


def persistent_volume(spec: ManifestNode) -> PersistentVolume:
    """The `spec` of a PersistentVolume."""
    spec.check(shapes.PERSISTENT_VOLUME_SPEC)
    found = ClaimSpec(
        size=read_size(spec.part("capacity"), "storage"),
        access_modes=_access_modes(spec),
        block=_is_block(spec),
        mount_options=tuple(spec.texts("mountOptions")),
    )
    spec.text("storageClassName")
    reference = spec.part("claimRef")
    reference.check(shapes.CLAIM_REF)
    claim = (reference.text("namespace", "default"), reference.text("name"))
    kinds = [kind for kind in _KINDS_OF_PERSISTENT if spec.has(kind)]
    if len(kinds) != 1:
        words = ", ".join(_KINDS_OF_PERSISTENT)
        if kinds or not any(name in shapes.PERSISTENT_VOLUME_SPEC.refused for name in spec.names()):
            spec.wrong("", f"has more than one of {words}" if kinds else f"needs one of {words}")
        return PersistentVolume(found, claim=claim)
    source = spec.part(kinds[0])
    if kinds[0] == "csi":
        return _of_driver(source, PersistentVolume(found, claim=claim))
    source.check(shapes.HOST_PATH if kinds[0] == "hostPath" else shapes.LOCAL_VOLUME)
    path = source.need_text("path")
    check_absolute(path, source)
    fs_type = source.text("fsType")
    if found.block or fs_type:
        return PersistentVolume(replace(found, kind="block", device=path, fs_type=fs_type), claim=claim)
    host_type = source.choice("type", HOST_PATH_TYPES, "")
    return PersistentVolume(found, HostDirectory(path, host_type), claim)


def _of_driver(source: ManifestNode, volume: PersistentVolume) -> PersistentVolume:
    source.check(shapes.CSI_PERSISTENT)
    attributes = tuple(sorted(source.mapping("volumeAttributes").items()))
    driver = DriverPlan(check_subdomain(source, "driver"), source.need_text("volumeHandle"), attributes)
    spec = replace(volume.spec, kind="csi", driver=driver, fs_type=source.text("fsType"))
    return replace(volume, spec=spec, read_only=bool(source.flag("readOnly")))


def check_absolute(path: str, node: ManifestNode) -> None:
    """Of the field `path`."""
    if path and not path.startswith("/"):
        node.wrong("path", f"{path!r} must be an absolute path")
    if ".." in path.split("/"):
        node.wrong("path", f"{path!r} must not hold '..'")
