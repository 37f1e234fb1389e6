"""Where each field of a container's OCI spec comes from, found by taking the inputs away one at a time.

A field whose value changes when one input is different (or is not there) comes from that input; what no
input changes is a default of ours. So nothing has to be kept beside the recipe, and an author who begins to
read another input is right here at once.

Of several inputs that a field depends on all are told, those that were asked for before what they were
looked up in. What the handler and the host can do limits most fields; it is named only where nothing else is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from crib.ocispec.container import container_document, container_spec
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.variants import LIMITS, SpecInput, sources

DEFAULT = "default"
EARLIER = "earlier"
"""Of a field that is otherwise in the spec that the container was made with than it would be made now."""
_MAX_TOLD = 3
_SPLIT_DEPTH = 2
"""Fields of this depth (process.args, mounts[0]) are listed even if all around them have the same origin."""
_IDENTITY = ("destination", "source", "type", "path", "major", "minor", "allow", "pageSize", "action", "args")
"""What distinguishes one element of a list from another."""

Recipe = Callable[[ContainerInputs], bytes]
Marks = dict[str, list[SpecInput]]


def whole_document(inputs: ContainerInputs) -> bytes:
    """The config.json that the inputs give."""
    return container_document(inputs, container_spec(inputs))


def origins(
    inputs: ContainerInputs, made: bytes | None = None, recipe: Recipe = whole_document
) -> dict[str, str]:
    """JSON pointers (RFC 6901) into the spec, and where what they lead to is from.

    The longest pointer that leads to a field is the one that counts. `made` is the config.json that the
    container has (what `inputs` give now may be different); without it the one that they give is meant.
    Raises what the recipe raises.
    """
    spec = recipe(inputs)
    shown = msgspec.json.decode(spec if made is None else made)
    earlier = set() if made in (None, spec) else set(differences(shown, msgspec.json.decode(spec)))
    marks: Marks = {}
    for source in sources(inputs):
        for pointer in _effect(source.variants, shown, spec, recipe):
            if pointer not in earlier:
                marks.setdefault(pointer, []).append(source)
    return dict(_Telling(marks, earlier).of(shown))


def _effect(variants: Iterable[ContainerInputs], shown: Any, spec: bytes, recipe: Recipe) -> Iterator[str]:
    """What changes by the first variant that the recipe takes and that changes anything."""
    for variant in variants:
        try:
            other = recipe(variant)
        except Exception:  # noqa: S112 - a variant may be nonsense to any author; then it shows nothing
            continue
        if other != spec:
            yield from differences(shown, msgspec.json.decode(other))
            return


def differences(base: Any, other: Any, pointer: str = "") -> Iterator[str]:
    """Pointers to what of `base` is not in `other`, or not the same; elements are known by what they are."""
    if base == other:
        return
    if not base:  # something took all of it away
        yield pointer
    elif isinstance(base, Mapping) and isinstance(other, Mapping):
        for key, value in base.items():
            place = f"{pointer}/{_escaped(key)}"
            if key in other:
                yield from differences(value, other[key], place)
            else:
                yield place
    elif isinstance(base, list) and isinstance(other, list):
        field = pointer.rpartition("/")[2]
        there = dict(zip(_identities(other, field), other, strict=True))
        for position, identity in enumerate(_identities(base, field)):
            place = f"{pointer}/{position}"
            if identity not in there or _is_another(base[position], there[identity]):
                yield place
            else:
                yield from differences(base[position], there[identity], place)
    else:
        yield pointer


def _is_another(element: Any, other: Any) -> bool:
    """Whether the two have no more in common than what they are: a limit with another number."""
    if not isinstance(element, Mapping):
        return False
    values = [(value, other.get(key)) for key, value in element.items() if key not in _IDENTITY]
    return bool(values) and all(
        value != changed and not isinstance(value, (Mapping, list)) for value, changed in values
    )


def _identities(elements: Sequence[Any], field: str) -> list[object]:
    """One for each element, unequal to the others."""
    seen: Counter[object] = Counter()
    found: list[object] = []
    for position, element in enumerate(elements):
        identity = _identity(element, field, position)
        found.append((identity, seen[identity]))
        seen[identity] += 1
    return found


def _identity(element: Any, field: str, position: int) -> object:
    if isinstance(element, Mapping):
        return json.dumps([element.get(key) for key in _IDENTITY])
    if field == "args":
        return position
    return str(element).partition("=")[0] if field == "env" else str(element)


class _Telling:
    """Turns marks into pointers with texts, leaving out what a pointer above says already."""

    def __init__(self, marks: Marks, earlier: set[str]) -> None:
        self._marks = marks
        self._earlier = earlier
        self._texts: dict[tuple[int, ...], str] = {}
        self._counts: dict[str, Counter[str]] = {}

    def of(self, spec: Any) -> Iterator[tuple[str, str]]:
        """Pointer and origin, from the whole to its parts."""
        self._count(spec, "", ())
        yield from self._told(spec, "", "", 0)

    def _count(self, value: Any, pointer: str, above: tuple[SpecInput, ...]) -> Counter[str]:
        """How many fields below are of which origin."""
        found = (*above, *self._marks.get(pointer, ()))
        counts: Counter[str] = Counter()
        if pointer in self._earlier:
            counts[EARLIER] += 1
        else:
            for key, child in _children(value):
                counts.update(self._count(child, f"{pointer}/{key}", found))
        if not counts:
            counts[self._text(found)] += 1
        self._counts[pointer] = counts
        return counts

    def _told(self, value: Any, pointer: str, told: str, depth: int) -> Iterator[tuple[str, str]]:
        counts = self._counts[pointer]
        usual = counts.most_common(1)[0][0]  # of those as frequent the first
        is_field = not isinstance(value, (Mapping, list)) or not value
        if depth >= _SPLIT_DEPTH or is_field:
            if usual != told:
                yield pointer, usual
            told = usual
        if len(counts) == 1 and told == usual:
            return
        for key, child in _children(value):
            yield from self._told(child, f"{pointer}/{key}", told, depth + 1)

    def _text(self, found: tuple[SpecInput, ...]) -> str:
        key = tuple(map(id, found))
        if (text := self._texts.get(key)) is None:
            text = self._texts[key] = _text(found)
        return text


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((_escaped(key), child) for key, child in value.items())
    elif isinstance(value, list):
        yield from ((str(position), child) for position, child in enumerate(value))


def _text(found: Sequence[SpecInput]) -> str:
    asked = [source for source in found if source.tier < LIMITS]
    asked = [source for source in asked if not source.chooses] or asked or list(found)
    labels = dict.fromkeys(source.label for source in sorted(asked, key=lambda source: source.tier))
    return ", ".join(list(labels)[:_MAX_TOLD]) or DEFAULT


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
