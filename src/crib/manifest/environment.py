"""A container's variables: its own, and those of ConfigMaps, Secrets and the pod itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.downward import env_field, resource_field
from crib.manifest.fields import is_env_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.manifest.fields import ManifestNode
    from crib.manifest.references import References

_SOURCES = ("configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef")
_KINDS = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
_FROM = {"configMapRef": "ConfigMap", "secretRef": "Secret"}


def environment(node: ManifestNode, references: References) -> dict[str, str]:
    """Variables in order: `envFrom`, then `env`, whose values may refer to those before them.

    A later one of a name wins. Bytes of a Secret that are no text are kept as Python's surrogate escapes.
    """
    found: dict[str, str] = {}
    for entry in node.children("envFrom"):
        found.update(_env_from(entry, references))
    for entry in node.children("env"):
        entry.check(shapes.ENV)
        name = entry.need_text("name")
        if name and not is_env_name(name):
            entry.wrong("name", f"{name!r} is not the name of an environment variable")
        value = _value(entry, node.text("name"), references, found)
        if value is not None:
            found[name] = value
    return found


def _env_from(node: ManifestNode, references: References) -> dict[str, str]:
    node.check(shapes.ENV_FROM)
    named = [name for name in _FROM if node.has(name)]
    if len(named) != 1:
        node.wrong("", f"needs {'only ' if named else ''}one of {', '.join(_FROM)}")
        return {}
    prefix, source = node.text("prefix"), node.part(named[0])
    source.check(shapes.OBJECT_REF)
    found = references.find(source, "name", _FROM[named[0]])
    if found is None:
        return {}
    values: dict[str, str] = {}
    for key in sorted(found.texts):
        if not is_env_name(prefix + key) or b"\0" in found.data[key]:
            node.notes.add(source.place, f"the key {key!r} is left out: it cannot be a variable")
            continue
        values[prefix + key] = found.data[key].decode("utf-8", "surrogateescape")
    return values


def _value(
    entry: ManifestNode, container: str, references: References, before: Mapping[str, str]
) -> str | None:
    """None when it is an optional one that is not there."""
    source = entry.child("valueFrom")
    if source is None:
        return expand(entry.text("value"), before)
    source.check(shapes.VALUE_FROM)
    if entry.text("value"):
        entry.wrong("valueFrom", "cannot be had together with a value")
    named = [name for name in _SOURCES if source.has(name)]
    if not named and source.has("fileKeyRef"):
        return None
    if len(named) != 1:
        source.wrong("", f"needs {'only ' if named else ''}one of {', '.join(_SOURCES)}")
        return ""
    node = source.part(named[0])
    if named[0] == "fieldRef":
        return env_field(node, references.facts)
    if named[0] == "resourceFieldRef":
        return resource_field(node, references.facts, container)
    node.check(shapes.KEY_REF)
    key = node.need_text("key")
    data = references.key(node, "name", _KINDS[named[0]], key)
    if data is None:
        return None
    if b"\0" in data:
        node.wrong("key", f"{key!r} holds a zero byte, which no variable can")
        return ""
    return data.decode("utf-8", "surrogateescape")


_REFERENCE = re.compile(r"\$(?:(?P<escaped>\$)|\((?P<name>[^)]*)\))")


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value; `$$` is a dollar sign, an unknown name stays as it is."""

    def replacement(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        return env.get(match["name"], match[0])

    return _REFERENCE.sub(replacement, text)


def unknown_names(text: str, env: Mapping[str, str]) -> list[str]:
    """Names in `$(NAME)` that are no variable."""
    return [m["name"] for m in _REFERENCE.finditer(text) if m["name"] is not None and m["name"] not in env]
