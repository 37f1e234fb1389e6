"""Settings from TOML, strictly: /etc/crib/config.toml, then /etc/crib/conf.d/*.toml in lexical order.

A later file replaces only the keys that it names: tables are merged, values and arrays are not. An unknown
key, or a value of the wrong type or out of bounds, is refused with file, line and dotted key. A configuration
is used as a whole or not at all.

`crib.model.settings` has the keys, their defaults and their bounds. `values` checks a value against its
bound, `checks` the keys against each other.
"""

from __future__ import annotations

import copy
import dataclasses
import glob
import os
from typing import Any, get_args, get_origin

from crib.config.checks import check
from crib.config.document import ConfigError, Document, Table, lay_over
from crib.model.keys import fields_of, is_part, unwrapped
from crib.model.settings import Settings

__all__ = ["DEFAULT_PATH", "MAX_BYTES", "ConfigError", "load", "parse"]

DEFAULT_PATH = "/etc/crib/config.toml"
MAX_BYTES = 1 << 20
"""Maximum size of one configuration file."""


def load(path: str = DEFAULT_PATH, *, required: bool = False) -> Settings:
    """Read `path` and the conf.d directory beside it.

    A missing file counts as empty unless it is `required` (the administrator named it). Raises ConfigError.
    """
    merged: Table = {}
    for file in (path, *sorted(glob.glob(os.path.join(os.path.dirname(path), "conf.d", "*.toml")))):
        text = _read(file, required=required and file == path)
        if text is not None:
            lay_over(merged, Document(file, text, Settings).table())
    return _build(merged, path)


def parse(text: str, file: str = "config.toml") -> Settings:
    """Settings from one file's text; `file` is for messages. Raises ConfigError."""
    return _build(Document(file, text, Settings).table(), file)


def _read(path: str, *, required: bool) -> str | None:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        if required:
            raise ConfigError(f"{path}: {error.strerror}") from error
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8: {error}") from error


def _build(table: Table, file: str) -> Settings:
    settings = _construct(Settings, _with_node_defaults(table))
    assert isinstance(settings, Settings)
    try:
        check(settings)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return settings


def _with_node_defaults(table: Table) -> Table:
    """Each handler's containers override those of the node, as a later file overrides an earlier one."""
    handlers = table.get("handlers", {name: {} for name in Settings().handlers})
    whole = {}
    for name, handler in handlers.items():
        containers = copy.deepcopy(table.get("containers", {}))
        lay_over(containers, handler.get("containers", {}))
        whole[name] = {**handler, "containers": containers}
    return {**table, "handlers": whole}


def _construct(hint: Any, value: Any) -> Any:
    """A value of the settings from a checked TOML value. A part takes its own keys from the whole table."""
    kind, _ = unwrapped(hint)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(
            **{
                name: _construct(inner, value if is_part(inner) else value[name])
                for name, inner in fields_of(kind).items()
                if is_part(inner) or name in value
            }
        )
    if get_origin(kind) is tuple:
        return tuple(_construct(get_args(kind)[0], element) for element in value)
    if isinstance(value, dict):
        return {key: _construct(get_args(kind)[1], element) for key, element in value.items()}
    return float(value) if kind is float else value
