"""What a pod refers to: objects of its namespace in the files, and facts of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.manifest.fields import nearest

if TYPE_CHECKING:
    from crib.manifest.downward import PodFacts
    from crib.manifest.fields import ManifestNode
    from crib.manifest.objects import DataObject, Objects


@dataclass(slots=True)
class References:
    """Answers what a pod asks for, and keeps which objects it needs."""

    objects: Objects
    facts: PodFacts
    used: dict[tuple[str, str], DataObject] = field(default_factory=dict)

    def directory(self, volume: str) -> str:
        """Where the pod has a volume of its own among its files."""
        return self.facts.site.dirs.volume(self.facts.uid, volume)

    def find(self, node: ManifestNode, name_field: str, kind: str) -> DataObject | None:
        """The object that `node` names. None if it is not there: a fault, unless it is optional."""
        name = node.need_text(name_field)
        found = self.objects.find(kind, self.facts.namespace, name)
        if found is not None:
            self.used[kind, name] = found
        elif name and node.flag("optional"):
            node.notes.add(node.place, f"left out: there is no {kind} {name!r} here (optional)")
        elif name:
            node.wrong(name_field, self.objects.missing(kind, self.facts.namespace, name))
        return found

    def key(self, node: ManifestNode, name_field: str, kind: str, key: str) -> bytes | None:
        """What one key of an object holds; None as in `find`."""
        found = self.find(node, name_field, kind)
        if found is None or key in found.data:
            return None if found is None else found.data[key]
        if node.flag("optional"):
            node.notes.add(node.place, f"left out: {kind} {found.name} has no key {key!r} (optional)")
        elif key:
            node.wrong("key", f"{kind} {found.name} has no key {key!r}{nearest(key, list(found.data))}")
        return None
