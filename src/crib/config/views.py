"""What is shown of a configuration: each key with its value, and where that comes from."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from crib.config import Configuration
from crib.config.places import Path
from crib.model.configuration import ChangedKey, ShownKey
from crib.model.keys import fields_of, is_live, is_part
from crib.model.settings import Settings

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def checked(configuration: Configuration) -> Iterator[str]:
    """What was looked at of a configuration that is sound, in lines for people."""
    for name in configuration.files:
        yield f"{name}: ok"
    if configuration.variables:
        yield f"{', '.join(configuration.variables)}: ok"
    for fault in configuration.deprecated:
        yield f"{fault}; the old name still counts"
    if not (configuration.files or configuration.variables):
        yield "no file and no variable: the defaults hold"


def shown(
    configuration: Configuration, settings: Settings | None = None, first: Configuration | None = None
) -> list[ShownKey]:
    """Every key, in the order of the classes.

    `settings`: if other ones hold than were read; where they differ the value comes from `first`.
    """
    defaults, read = dict(values(Settings())), dict(values(configuration.settings))
    return [
        ShownKey(
            key=name_of(path),
            value=value,
            default=defaults.get(path, defaults.get(_of_any_handler(path), "")),
            origin=(configuration if read.get(path) == value or first is None else first).origin(path),
            is_live=path_is_live(path),
        )
        for path, value in values(settings or configuration.settings)
    ]


def differences(before: Settings, after: Settings) -> list[ChangedKey]:
    """The keys whose values differ; one that is missing on a side has an empty text there."""
    # Of a table of values its names are told, so that it is empty needs no line.
    old, new = ({path: value for path, value in values(one) if value != "{}"} for one in (before, after))
    return [
        ChangedKey(name_of(path), old.get(path, ""), new.get(path, ""))
        for path in sorted(old.keys() | new.keys(), key=str)
        if old.get(path) != new.get(path)
    ]


def values(settings: Settings) -> Iterator[tuple[Path, str]]:
    """The path of each key, and its value as JSON.

    Names in a table of values are keys of their own, so that each may come from another file. Of a handler's
    containers only what differs from the node's is a key, and its machines have keys where it makes some.
    """
    node = dict(_of_table(settings.containers, ("containers",)))
    machines = {name for name, handler in settings.handlers.items() if handler.kind == "vm"}
    for path, value in _of_table(settings, ()):
        table = path[2:3] if path[:1] == ("handlers",) else ()
        if table == ("containers",) and node.get(path[2:]) == value:
            continue
        if table != ("vm",) or path[1] in machines:
            yield path, value


def name_of(path: Path) -> str:
    """As it is written in a file: with quotes where a name needs them."""
    return ".".join(
        part if _BARE.fullmatch(part) else json.dumps(part) for part in path if isinstance(part, str)
    )


def path_is_live(path: Path) -> bool:
    """Whether a reload changes it while the daemon runs."""
    return _is_live(Settings(), path)


def _is_live(table: Any, path: Path) -> bool:
    kind: type = type(table)
    for name, hint in fields_of(kind).items():
        value = getattr(table, name)
        if is_part(hint):
            if hasattr(value, str(path[0])):
                return is_live(hint) or _is_live(value, path)
        elif name == path[0]:
            if is_live(hint):
                return True
            if dataclasses.is_dataclass(value):
                return len(path) > 1 and _is_live(value, path[1:])
            if isinstance(value, Mapping) and len(path) > 2:
                return _is_live(next(iter(value.values())), path[2:])
    return False


def _of_any_handler(path: Path) -> Path:
    """Where the default of a handler's key is told: of containers it is the node's."""
    if path[2:3] == ("containers",):
        return path[2:]
    return ("handlers", *Settings().handlers, *path[2:]) if path[:1] == ("handlers",) else path


def _of_table(table: Any, path: Path) -> Iterator[tuple[Path, str]]:
    kind: type = type(table)
    for name, hint in fields_of(kind).items():
        value = getattr(table, name)
        inner = path if is_part(hint) else (*path, name)
        if dataclasses.is_dataclass(value):
            yield from _of_table(value, inner)
        elif isinstance(value, Mapping) and value:
            for key, one in value.items():
                if dataclasses.is_dataclass(one):
                    yield from _of_table(one, (*inner, key))
                else:
                    yield (*inner, key), _json(one)
        else:
            yield inner, _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value)
