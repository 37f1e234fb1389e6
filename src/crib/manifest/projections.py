"""Files of a volume that are made of ConfigMaps, Secrets and the pod's own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.downward import resource_field, volume_field
from crib.manifest.plan import VolumeFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from crib.manifest.fields import ManifestNode
    from crib.manifest.references import References

MAX_MODE = 0o777
DEFAULT_MODE = 0o644
TOKEN_VOLUME = "kube-api-access-"  # noqa: S105  # the name of a volume
"""What an API server calls the volume that it adds to every pod; pods live without it."""


@dataclass(frozen=True, slots=True)
class _Source:
    """How a source of files is read where it stands."""

    references: References
    mode: int
    optional: bool = False
    """Whether it may be missing though it does not say so."""


def config_map_files(node: ManifestNode, references: References) -> list[VolumeFile]:
    """Of a volume's `configMap`."""
    node.check(shapes.CONFIG_MAP_VOLUME)
    return _object_files(node, "name", "ConfigMap", _Source(references, _default_mode(node)))


def secret_files(node: ManifestNode, references: References) -> list[VolumeFile]:
    """Of a volume's `secret`."""
    node.check(shapes.SECRET_VOLUME)
    return _object_files(node, "secretName", "Secret", _Source(references, _default_mode(node)))


def downward_files(node: ManifestNode, references: References) -> list[VolumeFile]:
    """Of a volume's `downwardAPI`."""
    node.check(shapes.DOWNWARD_VOLUME)
    return _downward(node, _Source(references, _default_mode(node)))


def projected_files(node: ManifestNode, references: References, volume: str) -> list[VolumeFile]:
    """Of a volume's `projected`: its sources together."""
    node.check(shapes.PROJECTED_VOLUME)
    source = _Source(references, _default_mode(node), volume.startswith(TOKEN_VOLUME))
    found: list[VolumeFile] = []
    for entry in node.children("sources"):
        entry.check(shapes.PROJECTED_SOURCE)
        files: list[VolumeFile] = []
        for name, read in _PROJECTED.items():
            if (inner := entry.child(name)) is not None:
                files += read(inner, source)
        for file in files:
            if any(file.path == other.path for other in found):
                entry.wrong("", f"the file {file.path!r} is there twice")
        found += files
    return found


def _config_map(node: ManifestNode, source: _Source) -> list[VolumeFile]:
    node.check(shapes.PROJECTED_OBJECT)
    return _object_files(node, "name", "ConfigMap", source)


def _secret(node: ManifestNode, source: _Source) -> list[VolumeFile]:
    node.check(shapes.PROJECTED_OBJECT)
    return _object_files(node, "name", "Secret", source)


def _own(node: ManifestNode, source: _Source) -> list[VolumeFile]:
    node.check(shapes.PROJECTED_DOWNWARD)
    return _downward(node, source)


def _token(node: ManifestNode, source: _Source) -> list[VolumeFile]:
    """A pod lives without the one that a cluster adds; one that asks for it itself does not."""
    if not source.optional:
        node.wrong("", "not supported: there is no API server to give a token")
    return []


_PROJECTED: dict[str, Callable[[ManifestNode, _Source], list[VolumeFile]]] = {
    "configMap": _config_map,
    "secret": _secret,
    "downwardAPI": _own,
    "serviceAccountToken": _token,
}


def _object_files(node: ManifestNode, name_field: str, kind: str, source: _Source) -> list[VolumeFile]:
    if source.optional and not node.has("optional"):
        node = node.with_fields(optional=True)
    found = source.references.find(node, name_field, kind)
    if not node.has("items"):
        return (
            []
            if found is None
            else [VolumeFile(key, found.data[key], source.mode) for key in sorted(found.data)]
        )
    files = []
    for item in node.children("items"):
        item.check(shapes.KEY_TO_PATH)
        key, path = item.need_text("key"), _path(item)
        if found is None:
            continue
        if key in found.data:
            files.append(VolumeFile(path, found.data[key], _mode(item, "mode", source.mode)))
        elif node.flag("optional"):
            node.notes.add(item.place, f"left out: {kind} {found.name} has no key {key!r} (optional)")
        elif key:
            item.wrong("key", f"{kind} {found.name} has no key {key!r}")
    return files


def _downward(node: ManifestNode, source: _Source) -> list[VolumeFile]:
    files = []
    for item in node.children("items"):
        item.check(shapes.DOWNWARD_ITEM)
        path, field, resource = _path(item), item.child("fieldRef"), item.child("resourceFieldRef")
        if (field is None) == (resource is None):
            item.wrong("", "needs one of fieldRef, resourceFieldRef")
            continue
        facts = source.references.facts
        text = volume_field(field, facts) if field is not None else ""
        if resource is not None:
            text = resource_field(resource, facts)
        files.append(VolumeFile(path, text.encode(), _mode(item, "mode", source.mode)))
    return files


def _path(item: ManifestNode) -> str:
    path = item.need_text("path")
    parts = path.split("/")
    if path.startswith(("/", "..")) or ".." in parts or (path and "" in parts):
        item.wrong("path", f"{path!r} must be a relative path without '..'")
        return ""
    return path


def _default_mode(node: ManifestNode) -> int:
    return _mode(node, "defaultMode", DEFAULT_MODE)


def _mode(node: ManifestNode, name: str, default: int) -> int:
    found = node.number(name, 0, MAX_MODE)
    return default if found is None else found
