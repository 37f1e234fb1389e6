"""YAML text to objects with their places: several documents, and the items of Lists.

Values are read as Kubernetes reads them: what looks like a time (`2026-01-31`, `12:30:00`) is a string.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from crib.manifest import shapes
from crib.manifest.faults import ManifestPlace
from crib.manifest.fields import ManifestNode

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from crib.manifest.faults import Book

MAX_TEXT = 1 << 20
"""Characters of one file; an API server takes about as much."""
MAX_DOCUMENTS = 1000
"""Objects of all files together."""


@dataclass(frozen=True, slots=True)
class ManifestText:
    """A file's text. `is_data`: its ConfigMaps, Secrets and claims may be used, and nothing in it is run."""

    name: str
    text: str
    is_data: bool = False


class _StrictLoader(yaml.SafeLoader):
    """Safe types only, and no key twice in one object: YAML's own rule, which PyYAML does not check."""

    def __init__(self, stream: str, place: ManifestPlace, book: Book) -> None:
        super().__init__(stream)
        self._place = place
        self._book = book

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]  # PyYAML's stubs
        is_time = kind is yaml.ScalarNode and (tag == _TIME or (implicit[0] and ":" in value))
        return _STRING if is_time and tag.startswith("tag:yaml.org,2002:") else tag

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                self._book.faults.add(
                    at_mark(self._place, key.start_mark), f"the name {key.value!r} is there twice"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_STRING, _TIME = "tag:yaml.org,2002:str", "tag:yaml.org,2002:timestamp"


def at_mark(place: ManifestPlace, mark: yaml.Mark) -> ManifestPlace:
    """That place of the file; PyYAML counts from 0."""
    return replace(place, line=mark.line + 1, column=mark.column + 1)


def documents(text: ManifestText, rank: int, book: Book) -> Iterator[ManifestNode]:
    """The objects of a file in order, items of Lists one by one; what is wrong is written down."""
    place = ManifestPlace(file=text.name, rank=rank)
    if len(text.text) > MAX_TEXT:
        book.faults.add(place, f"is larger than {MAX_TEXT} bytes")
        return
    try:
        for value, tree in _composed(text.text, place, book):
            with book.faults.gather():
                yield from _objects(ManifestNode(value, at_mark(place, tree.start_mark), book, tree))
    except yaml.MarkedYAMLError as error:
        where = at_mark(place, error.problem_mark) if error.problem_mark else place
        book.faults.add(where, f"not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError) as error:
        book.faults.add(place, f"not YAML: {error}".replace("\n", " "))
    except RecursionError:
        book.faults.add(place, "not a manifest: it is nested too deeply")


def _composed(text: str, place: ManifestPlace, book: Book) -> Iterator[tuple[object, yaml.Node]]:
    loader = _StrictLoader(text, place, book)
    try:
        while loader.check_node():
            tree = loader.get_node()
            assert tree is not None
            value = loader.construct_document(tree)
            if value is not None:
                yield value, tree
    finally:
        loader.dispose()


def _objects(node: ManifestNode) -> Iterator[ManifestNode]:
    kind = node.need_text("kind")
    version = node.need_text("apiVersion")
    if not kind.endswith("List") or not node.has("items"):
        yield node
        return
    node.check(shapes.LIST)
    for item in node.children("items"):
        if kind != "List":  # items of a PodList need not say what they are
            item.assume("kind", kind.removesuffix("List"))
            item.assume("apiVersion", version)
        item.need_text("kind")
        item.need_text("apiVersion")
        yield item
