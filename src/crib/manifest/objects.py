"""ConfigMaps, Secrets and claims of the files, which pods refer to by name."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from crib.manifest import shapes
from crib.manifest.fields import check_label, check_subdomain
from crib.manifest.quantity import parse_quantity, whole

if TYPE_CHECKING:
    from crib.manifest.fields import ManifestNode

MAX_DATA = 1 << 20
"""Bytes of one ConfigMap or Secret, as in Kubernetes."""
_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")


@dataclass(frozen=True, slots=True)
class DataObject:
    """A ConfigMap, a Secret or a claim. `texts` are the keys that an environment may be made of."""

    kind: str
    namespace: str
    name: str
    data: Mapping[str, bytes] = field(default_factory=dict)
    texts: frozenset[str] = frozenset()
    type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    size: int = 0
    """What a claim asks for in bytes; 0: it does not say."""
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
        namespace = check_label(metadata, "namespace", "default")
        if (kind, namespace, name) in self._found:
            metadata.wrong("name", f"{kind} {namespace}/{name} is there twice")
        read = {"ConfigMap": _config_map, "Secret": self._secret}.get(kind, _claim)
        found = read(node, namespace, name)
        if sum(map(len, found.data.values())) > MAX_DATA:
            node.wrong("data", f"is larger than {MAX_DATA} bytes")
        self._found[kind, namespace, name] = found

    def find(self, kind: str, namespace: str, name: str) -> DataObject | None:
        """The object, if a file had it."""
        return self._found.get((kind, namespace, name))

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
    spec = node.part("spec")
    spec.check(shapes.CLAIM_SPEC)
    spec.choice("volumeMode", ("Filesystem",), "Filesystem")
    for index, mode in enumerate(spec.texts("accessModes")):
        if mode not in ("ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany", "ReadWriteMany"):
            spec.faults.add(spec.item("accessModes", index), f"{mode!r} is not an access mode")
    resources = spec.part("resources")
    resources.check(shapes.RESOURCES)
    requests, size = resources.part("requests"), 0
    if requests.has("storage"):
        try:
            size = whole(parse_quantity(requests.raw("storage")))
        except ValueError as error:
            requests.wrong("storage", str(error))
        requests.notes.add(requests.at("storage"), "not enforced: a named volume is a directory")
    labels = node.part("metadata").mapping("labels")
    return DataObject(
        "PersistentVolumeClaim", namespace, name, labels=labels, size=size, document=node.value()
    )


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
