"""ConfigMaps, Secrets, claims, volumes and snapshots of the files, which pods refer to by name."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from crib.manifest import shapes
from crib.manifest.claims import (
    ClaimRequest,
    PersistentVolume,
    claim_request,
    persistent_volume,
    snapshot_claim,
)
from crib.manifest.fields import check_label, check_subdomain

if TYPE_CHECKING:
    from collections.abc import Callable

    from crib.manifest.fields import ManifestNode

MAX_DATA = 1 << 20
"""Bytes of one ConfigMap or Secret, as in Kubernetes."""
_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")


@dataclass(frozen=True, slots=True)
class DataObject:
    """What a pod may refer to. `texts` are the keys that an environment may be made of."""

    kind: str
    namespace: str
    name: str
    data: Mapping[str, bytes] = field(default_factory=dict)
    texts: frozenset[str] = frozenset()
    type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    claim: ClaimRequest | None = None
    persistent: PersistentVolume | None = None
    taken_of: str = ""
    """The claim that a VolumeSnapshot is taken of."""
    document: Mapping[str, object] = field(default_factory=dict)
    """As it was written."""


class Objects:
    """All of them by kind, namespace and name."""

    def __init__(self, *, hide_secrets: bool = False) -> None:
        """`hide_secrets`: instead of what a Secret holds, say which of its keys it would be."""
        self._hide = hide_secrets
        self._found: dict[tuple[str, str, str], DataObject] = {}

    def add(self, node: ManifestNode) -> None:
        """Read one; faults are written down."""
        kind = node.text("kind")
        metadata = node.part("metadata")
        metadata.check(shapes.METADATA)
        name = check_subdomain(metadata, "name")
        is_of_cluster = kind == "PersistentVolume"
        namespace = "" if is_of_cluster else check_label(metadata, "namespace", "default")
        if (kind, namespace, name) in self._found:
            metadata.wrong("name", f"{kind} {namespace}/{name}".replace(" /", " ") + " is there twice")
        found = (
            self._secret(node, namespace, name) if kind == "Secret" else _READ[kind](node, namespace, name)
        )
        if sum(map(len, found.data.values())) > MAX_DATA:
            node.wrong("data", f"is larger than {MAX_DATA} bytes")
        self._found[kind, namespace, name] = found

    def add_missing(self, claim: ManifestNode) -> None:
        """A claim that is made by a template; one that a file has itself counts instead."""
        metadata = claim.part("metadata")
        if self.find(claim.text("kind"), metadata.text("namespace"), metadata.text("name")) is None:
            self.add(claim)

    def find(self, kind: str, namespace: str, name: str) -> DataObject | None:
        """The object, if a file had it."""
        return self._found.get((kind, namespace, name))

    def volume_for(self, namespace: str, claim: str) -> DataObject | None:
        """The PersistentVolume that says that it is for this claim."""
        wanted = (namespace, claim)
        volumes = (one for one in self._found.values() if one.persistent is not None)
        return next((one for one in volumes if one.persistent and one.persistent.claim == wanted), None)

    def missing(self, kind: str, namespace: str, name: str) -> str:
        """What to tell of an object that is not there."""
        others = [other for one, other, its_name in self._found if (one, its_name) == (kind, name)]
        hint = (
            f"; there is one in namespace {others[0]}" if others else ": add it, or name its file by --from"
        )
        return f"there is no {kind} {name!r} in namespace {namespace}{hint}"

    def _secret(self, node: ManifestNode, namespace: str, name: str) -> DataObject:
        node.check(shapes.SECRET)
        node.flag("immutable")
        data = {**_decoded(node, "data"), **_encoded(node, "stringData")}
        if self._hide:
            data = {key: f"<secret {name}: {key}>".encode() for key in data}
        return DataObject(
            "Secret",
            namespace,
            name,
            data,
            frozenset(data),
            node.text("type", "Opaque"),
            document=node.value(),
        )


def _config_map(node: ManifestNode, namespace: str, name: str) -> DataObject:
    node.check(shapes.CONFIG_MAP)
    node.flag("immutable")
    texts, binary = _encoded(node, "data"), _decoded(node, "binaryData")
    for key in texts.keys() & binary.keys():
        node.part("binaryData").wrong(key, "is in data as well")
    return DataObject(
        "ConfigMap", namespace, name, {**binary, **texts}, frozenset(texts), document=node.value()
    )


def _encoded(node: ManifestNode, name: str) -> dict[str, bytes]:
    return {key: text.encode() for key, text in _keys(node, name).items()}


def _decoded(node: ManifestNode, name: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for key, text in _keys(node, name).items():
        try:
            found[key] = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            plain = "; write plain text under stringData" if name == "data" else ""
            node.part(name).wrong(key, f"is not base64{plain}")
    return found


def _keys(node: ManifestNode, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, text in node.mapping(name).items():
        if _KEY.fullmatch(key) and not key.startswith(".."):
            found[key] = text
        else:
            node.part(name).wrong(key, f"{key!r} must be at most 253 of letters, digits, '-', '_' and '.'")
    return found


def _claim(node: ManifestNode, namespace: str, name: str) -> DataObject:
    node.check(shapes.CLAIM)
    return DataObject(
        "PersistentVolumeClaim",
        namespace,
        name,
        labels=node.part("metadata").mapping("labels"),
        claim=claim_request(node.part("spec")),
        document=node.value(),
    )


def _snapshot(node: ManifestNode, namespace: str, name: str) -> DataObject:
    node.check(shapes.SNAPSHOT)
    taken_of = snapshot_claim(node.part("spec"))
    return DataObject("VolumeSnapshot", namespace, name, taken_of=taken_of, document=node.value())


def _volume(node: ManifestNode, namespace: str, name: str) -> DataObject:
    node.check(shapes.PERSISTENT_VOLUME)
    found = persistent_volume(node.part("spec"))
    return DataObject("PersistentVolume", namespace, name, persistent=found, document=node.value())


_READ: Mapping[str, Callable[[ManifestNode, str, str], DataObject]] = {
    "ConfigMap": _config_map,
    "PersistentVolumeClaim": _claim,
    "PersistentVolume": _volume,
    "VolumeSnapshot": _snapshot,
}


def without_secrets(document: str) -> str:
    """A `PodPlan.document` whose Secrets are empty. It still tells of hooks and probes."""
    if "kind: Secret" not in document:
        return document
    parts = list(yaml.safe_load_all(document))
    for part in parts:
        if part["kind"] == "Secret":
            for name in ("data", "stringData"):
                part[name] = dict.fromkeys(part.get(name) or (), "")
    return yaml.dump_all(parts, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True)
