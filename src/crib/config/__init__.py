"""Settings from TOML, strictly: /etc/crib/config.toml, then /etc/crib/conf.d/*.toml in lexical order.

A later file replaces the keys that it names, and no others: tables are merged, values and arrays are not. A
key that is not known, a value of the wrong type or out of its bounds is refused with file, line and dotted
key; nothing is taken of a configuration that is not right as a whole.

`crib.model.settings` has the keys and their defaults; the modules here, one for each table, what their values
must be.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from typing import Any, get_args, get_origin, get_type_hints

from crib.config import containers, daemon, handlers, images, network, streaming
from crib.config.document import ConfigError, Document, Table, lay_over
from crib.config.values import Rules
from crib.model.settings import Settings

__all__ = ["DEFAULT_PATH", "MAX_BYTES", "ConfigError", "load", "parse"]

DEFAULT_PATH = "/etc/crib/config.toml"
MAX_BYTES = 1 << 20
"""Size of one configuration file at most."""
_RULES: Rules = {
    key: rule
    for module in (daemon, network, streaming, images, containers, handlers)
    for key, rule in module.RULES.items()
}


def load(path: str = DEFAULT_PATH, *, required: bool = False) -> Settings:
    """Read `path` and the conf.d directory beside it.

    A file that is not there counts as empty unless it is `required` (the administrator named it). Raises
    ConfigError.
    """
    merged: Table = {}
    for file in (path, *sorted(glob.glob(os.path.join(os.path.dirname(path), "conf.d", "*.toml")))):
        text = _read(file, required=required and file == path)
        if text is not None:
            lay_over(merged, Document(file, text, Settings, _RULES).table())
    return _build(merged, path)


def parse(text: str, file: str = "config.toml") -> Settings:
    """Settings from one file's text; `file` is for messages. Raises ConfigError."""
    return _build(Document(file, text, Settings, _RULES).table(), file)


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
    settings = _construct(Settings, containers.with_node_defaults(table))
    assert isinstance(settings, Settings)
    try:
        daemon.check_daemon(settings)
        containers.check_containers(settings.containers, "containers")
        for name, handler in settings.handlers.items():
            containers.check_containers(handler.containers, f"handlers.{name}.containers")
        images.check_images(settings.images)
        streaming.check_streaming(settings.streaming)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return settings


def _construct(kind: Any, value: Any) -> Any:
    """A value of the settings from a checked TOML value."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{key: _construct(hints[key], element) for key, element in value.items()})
    if get_origin(kind) is tuple:
        return tuple(_construct(get_args(kind)[0], element) for element in value)
    if isinstance(value, dict):
        return {key: _construct(get_args(kind)[1], element) for key, element in value.items()}
    return float(value) if kind is float else value
