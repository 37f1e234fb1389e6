"""Settings, strictly: /etc/crib/config.toml, conf.d/*.toml beside it in lexical order, then the environment.

What comes later replaces only the keys that it names: tables are merged, values and arrays are not. Unknown
keys, and values of the wrong type or out of bounds, are refused, each with its place. A configuration is used
as a whole or not at all.

`crib.model.settings` has the keys, their defaults and their bounds. `values` checks a value against its
bound, `checks` the keys against each other.
"""

from __future__ import annotations

import copy
import dataclasses
import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from crib.config.checks import check
from crib.config.document import Document, Table, lay_over, leaves
from crib.config.faults import ConfigError, Fault
from crib.config.places import Path
from crib.config.variables import from_environment
from crib.model.keys import fields_of, is_part, unwrapped
from crib.model.settings import Settings

__all__ = ["DEFAULT_PATH", "MAX_BYTES", "ConfigError", "Configuration", "load", "parse", "read"]

DEFAULT_PATH = "/etc/crib/config.toml"
MAX_BYTES = 1 << 20
"""Maximum size of one configuration file."""


class Configuration:
    """Settings that have been read, and where each of them comes from."""

    def __init__(
        self, documents: Sequence[Document], environment: Mapping[str, str] | None = None, main: str = ""
    ) -> None:
        """Raises ConfigError with all that is wrong; `main` is named for what no line says."""
        faults: list[Fault] = []
        self._said: dict[Path, Document] = {}
        merged: Table = {}
        for document in documents:
            table = document.table(faults)
            lay_over(merged, table)
            self._said |= dict.fromkeys(leaves(table), document)
        table, self._variables = from_environment(environment or {}, faults)
        lay_over(merged, table)
        if not faults:
            self.settings = _settings(merged)
            faults += (Fault(self._place(path) or main, text) for path, text in check(self.settings))
        if faults:
            raise ConfigError(faults)
        self.files = tuple(document.name for document in documents)
        self.variables = tuple(self._variables.values())
        """Those of the environment that set something."""
        self.deprecated = tuple(fault for document in documents for fault in document.deprecated)
        """Keys that are called by an old name."""

    def origin(self, path: Path) -> str:
        """FILE:LINE:COLUMN of what sets a key, or the variable that does; empty where the default holds."""
        if path in self._variables:
            return self._variables[path]
        if path in self._said:
            return self._said[path].place(path)
        if path[:1] == ("handlers",) and path[2:3] == ("containers",):
            return self.origin(path[2:])  # what the handler does not say of containers the node does
        return ""

    def _place(self, path: Path) -> str:
        """Of a key, or of an element of its array; empty where the default holds."""
        key = tuple(part for part in path if isinstance(part, str))
        if key in self._said and key not in self._variables:
            return self._said[key].place(path)
        return self.origin(key)


def read(
    path: str = DEFAULT_PATH, *, required: bool = False, environment: Mapping[str, str] | None = None
) -> Configuration:
    """Read `path`, the conf.d directory beside it, and the variables of the environment.

    A missing file counts as empty unless it is `required` (the administrator named it). Raises ConfigError.
    """
    unread: list[Fault] = []
    documents = []
    for file in (path, *sorted(glob.glob(os.path.join(os.path.dirname(path), "conf.d", "*.toml")))):
        text = _read(file, unread, required=required and file == path)
        if text is not None:
            documents.append(Document(file, text, Settings))
    try:
        configuration = Configuration(documents, environment, path)
    except ConfigError as error:
        raise ConfigError((*unread, *error.faults)) from None
    if unread:
        raise ConfigError(unread)
    return configuration


def load(path: str = DEFAULT_PATH, *, required: bool = False) -> Settings:
    """What the files alone say; see `read`."""
    return read(path, required=required).settings


def parse(text: str, file: str = "config.toml") -> Settings:
    """Settings from one file's text; `file` is for messages. Raises ConfigError."""
    return Configuration([Document(file, text, Settings)], main=file).settings


def _read(path: str, faults: list[Fault], *, required: bool) -> str | None:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            faults.append(Fault(path, f"is larger than {MAX_BYTES} bytes"))
            return None
        return content.decode()
    except FileNotFoundError as error:
        if required:
            faults.append(Fault(path, str(error.strerror)))
    except OSError as error:
        faults.append(Fault(path, str(error.strerror)))
    except UnicodeDecodeError as error:
        faults.append(Fault(path, f"is not UTF-8: {error}"))
    return None


def _settings(table: Table) -> Settings:
    settings = _construct(Settings, _with_node_defaults(table))
    assert isinstance(settings, Settings)
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
