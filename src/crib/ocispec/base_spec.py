"""A handler's base spec: an OCI spec of the administrator's, whose fields hold where ours says nothing.

What a pod's request decides (who runs, what it may, which namespaces and devices) is not taken from it, or a
request without a word on it would be granted something that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from crib.model.edits import ContainerEdits

_DECIDED: tuple[str, ...] = (
    "ociVersion",
    "root",
    "hostname",
    "domainname",
    "process.args",
    "process.commandLine",
    "process.cwd",
    "process.terminal",
    "process.consoleSize",
    "process.user",
    "process.capabilities",
    "process.apparmorProfile",
    "process.selinuxLabel",
    "linux.namespaces",
    "linux.uidMappings",
    "linux.gidMappings",
    "linux.cgroupsPath",
    "linux.devices",
    "linux.resources.devices",
    "linux.seccomp",
    "linux.maskedPaths",
    "linux.readonlyPaths",
    "linux.mountLabel",
    "linux.rootfsPropagation",
)
_LISTS: Mapping[str, str] = {"process.rlimits": "type", "mounts": "destination"}
"""Lists whose elements are distinguished by one of their members: ours first, then the others."""
_OBJECTS = ("process", "linux", "linux.resources", "hooks", "annotations")


def usable_part(base: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is taken of a base spec, and the fields that are not. ValueError when it is no OCI spec."""
    kept = _copied(base, "")
    dropped = []
    for dotted in _DECIDED:
        *outer, name = dotted.split(".")
        table: Any = kept
        for part in outer:
            table = table.get(part, {})
        if name in table:
            del table[name]
            dropped.append(dotted)
    for dotted, key in _LISTS.items():
        for element in _at(kept, dotted) or ():
            if not isinstance(element, dict) or not isinstance(element.get(key), str):
                raise ValueError(  # noqa: TRY004 - the document is wrong, not our call
                    f"{dotted} must be a list of objects with a {key}"
                )
    for stage in kept.get("hooks", {}):
        _at(kept, f"hooks.{stage}")
    env = _at(kept, "process.env") or ()
    if not all(isinstance(entry, str) and "=" in entry for entry in env):
        raise ValueError("process.env must be a list of NAME=VALUE")
    return kept, tuple(dropped)


def without_removed(base: Mapping[str, Any], edits: Sequence[ContainerEdits]) -> Mapping[str, Any]:
    """The base without what edits have taken away: it would hold again, as the spec says nothing there."""
    for one in edits:
        removed = one.removed
        changes: dict[str, Callable[[Any], Any]] = {
            "process.env": partial(_others, "", removed.env),
            "mounts": partial(_others, "destination", removed.mounts),
            "annotations": partial(_but, removed.annotations),
            "linux.sysctl": partial(_but, removed.sysctls),
            "linux.netDevices": partial(_but, removed.net_devices),
            **dict.fromkeys(_taken_away(one), _nothing),
        }
        for dotted, change in changes.items():
            base = _changed(base, dotted, change)
    return base


def _taken_away(edits: ContainerEdits) -> Iterator[str]:
    """Fields that are to have no value at all."""
    if edits.io_priority is not None and not edits.io_priority.class_:
        yield "process.ioPriority"
    if edits.scheduler is not None and not edits.scheduler.policy:
        yield "process.scheduler"
    if edits.removed.rdt or edits.resources.rdt_class == "":
        yield "linux.intelRdt"
    if edits.resources.blockio_class == "":
        yield "linux.resources.blockIO"


def _changed(table: Mapping[str, Any], dotted: str, change: Callable[[Any], Any]) -> Mapping[str, Any]:
    """With another value at a place, if there is one; without the place where that is None."""
    name, _, rest = dotted.partition(".")
    if name not in table:
        return table
    value = _changed(table[name], rest, change) if rest else change(table[name])
    kept = _but((name,), table)
    return kept if value is None else {**kept, name: value}


def _nothing(_: Any) -> None:
    return None


def _but(gone: Sequence[str], table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in gone}


def _others(key: str, gone: Sequence[str], elements: Sequence[Any]) -> list[Any]:
    """Those that are not called so: by a member, or as variables are."""
    return [one for one in elements if (one[key] if key else one.partition("=")[0]) not in gone]


def merged(base: Mapping[str, Any], ours: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Our document over the base: objects member by member, lists of named things by name, else ours."""
    result = dict(ours)
    for name, value in base.items():
        dotted = f"{path}{name}"
        if name not in result:
            result[name] = value
        elif dotted in _LISTS:
            result[name] = merged_lists(dotted, value, result[name])
        elif dotted == "process.env":
            known = {entry.partition("=")[0] for entry in result[name]}
            result[name] = [
                *(entry for entry in value if entry.partition("=")[0] not in known),
                *result[name],
            ]
        elif path == "hooks.":
            result[name] = [*value, *result[name]]
        elif isinstance(value, dict) and isinstance(result[name], dict):
            result[name] = merged(value, result[name], f"{dotted}.")
    return result


def merged_lists(dotted: str, base: Sequence[Any], ours: Sequence[Any]) -> list[Any]:
    """One of the lists of named things; mounts so that parents come before what is below."""
    key = _LISTS[dotted]
    known = {element[key] for element in ours}
    result = [*ours, *(element for element in base if element[key] not in known)]
    if dotted == "mounts":
        result.sort(key=lambda mount: mount["destination"].rstrip("/").count("/"))
    return result


def _at(table: Mapping[str, Any], dotted: str) -> Any:
    *outer, name = dotted.split(".")
    for part in outer:
        table = table.get(part, {})
    value = table.get(name)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{dotted} must be a list")
    return value


def _copied(table: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A copy that can be changed, in which what must be an object is one."""
    result = dict(table)
    for dotted in _OBJECTS:
        outer, _, name = dotted.rpartition(".")
        if outer != path or name not in result:
            continue
        if not isinstance(result[name], dict):
            raise ValueError(f"{dotted} must be an object")  # noqa: TRY004 - the document is wrong
        result[name] = _copied(result[name], dotted)
    return result
