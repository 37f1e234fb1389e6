"""Settings from TOML, strictly: /etc/crib/config.toml, then /etc/crib/conf.d/*.toml in lexical order.

A later file replaces the keys that it names, and no others: tables are merged, values and arrays are not. A
key that is not known, a value of the wrong type or out of its bounds is refused with file, line and dotted
key; nothing is taken of a configuration that is not right as a whole.
"""

from __future__ import annotations

import dataclasses
import difflib
import glob
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from crib.model.errors import InvalidRequest
from crib.model.image import parse_reference
from crib.model.settings import ImageSettings, Settings, StreamingSettings

DEFAULT_PATH = "/etc/crib/config.toml"
MAX_BYTES = 1 << 20
"""Size of one configuration file at most."""
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7), sun_path less its NUL)."""

MIN_LOG_SIZE = 64 << 10
"""Bytes of a container's log at least before it may be rotated: a few of the longest entries."""

Table = dict[str, Any]

_CHOICES: Mapping[str, tuple[object, ...]] = {
    "log.level": ("debug", "info", "warning", "error", "critical"),
    "log.format": ("text", "json"),
    "network.mode": ("cni", "bridge"),
    "network.isolation": ("none", "pods"),
    "network.ip_preference": ("cni", "ipv4", "ipv6"),
    "streaming.tls": ("off", "files", "self-signed"),
    "images.block_size": (0, 512, 4096),
    "images.mount_method": ("auto", "file", "loop", "directory"),
    "images.policy.action": ("accept", "reject", "digest", "signed"),
    "missing_host_path": ("create", "error"),
    "cgroup_driver": ("cgroupfs", "systemd"),
    "image_volumes": ("bind", "mkdir", "ignore"),
}
_LEAST: Mapping[str, float] = {
    "network.mtu": 0,
    "network.plugin_timeout": 0.1,
    "network.cni_networks": 0,
    "network.ready_timeout": 0,
    "network.check_interval": 0,
    "streaming.port": 0,
    "streaming.token_time": 1,
    "streaming.creation_timeout": 0.1,
    "streaming.idle_timeout": 0,
    "streaming.max_connections": 1,
    "streaming.max_streams": 4,
    "streaming.attach_replay": 0,
    "images.parallel_layers": 1,
    "images.parallel_ranges": 1,
    "images.worker_memory": 0,
    "images.pull_linger": 0,
    "images.stall_timeout": 0.1,
    "images.stall_bytes": 1,
    "images.dead_host_time": 0,
    "images.bandwidth": 0,
    "images.partial_time": 0,
    "images.partial_bytes": 0,
    "images.max_layer_bytes": 1,
    "images.max_ratio": 1,
    "images.min_free": 0,
    "images.gc_high": 0,
    "images.gc_low": 0,
    "images.gc_min_age": 0,
    "images.verifier_timeout": 0.1,
    "log_size_max": 0,
    "log_files": 2,
    "verb_timeout": 0.1,
    "pids_limit": 0,
}
_HANDLER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_HEADER = re.compile(r"\s*\[\[?\s*([^\]]*?)\s*\]\]?\s*(?:#.*)?$")


def _absolute(text: str) -> str:
    good = text.startswith("/") and ".." not in text.split("/")
    return "" if good else "an absolute path without '..'"


def _absolute_or_none(text: str) -> str:
    return _absolute(text) if text else ""


def _socket(text: str) -> str:
    return _absolute(text) if text else ""


def _interface(text: str) -> str:
    """As the kernel's dev_valid_name has it."""
    good = 0 < len(os.fsencode(text)) <= 15 and not set(text) & set("/: ") and text not in (".", "..")
    return "" if good else "an interface's name of at most 15 bytes"


def _image(text: str) -> str:
    try:
        parse_reference(text, field="")
    except InvalidRequest as error:
        return f"an image's name ({error})"
    return ""


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return "an IP address"
    return ""


def _subnet(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        return f"an address range ({error})"
    return "" if network.num_addresses >= 8 else "a range of at least 8 addresses"


def _subnet6(text: str) -> str:
    try:
        network = ipaddress.IPv6Network(text) if text else None
    except ValueError as error:
        return f"an IPv6 range ({error})"
    good = network is None or 64 <= network.prefixlen <= 120
    return "" if good else "an IPv6 range with a prefix of 64 to 120 bits"


def _range(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"an address range ({error})"
    return ""


def _domain(text: str) -> str:
    good = not text or re.fullmatch(
        r"(?=.{1,200}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", text
    )
    return "" if good else "a domain name in lower case, as in pods.internal"


_RULES: Mapping[str, Callable[[str], str]] = {
    "data": _absolute,
    "state": _absolute,
    "cgroup_root": _absolute,
    "socket": _socket,
    "streaming.address": _address,
    "streaming.cert_file": _absolute_or_none,
    "streaming.key_file": _absolute_or_none,
    "streaming.client_ca_file": _absolute_or_none,
    "images.hosts_dirs": _absolute,
    "images.registries_conf": _absolute_or_none,
    "images.auth_file": _absolute_or_none,
    "images.import_dir": _absolute_or_none,
    "images.prepull": _image,
    "images.policy.keys": _absolute,
    "images.verifiers": _absolute,
    "cdi_spec_dirs": _absolute,
    "oci_hooks_dirs": _absolute,
    "network.cni_conf_dir": _absolute,
    "network.bridge": _interface,
    "network.subnet": _subnet,
    "network.subnet6": _subnet6,
    "network.native_ranges": _range,
    "network.dns_domain": _domain,
    "network.cni_conf_template": _absolute_or_none,
}
"""Dotted key to what says, for a bad value only, what it must be."""


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where and why."""


def load(path: str = DEFAULT_PATH, *, required: bool = False) -> Settings:
    """Read `path` and the conf.d directory beside it.

    A file that is not there counts as empty unless it is `required` (the administrator named it). Raises
    ConfigError.
    """
    merged: Table = {}
    for file in (path, *sorted(glob.glob(os.path.join(os.path.dirname(path), "conf.d", "*.toml")))):
        text = _read(file, required=required and file == path)
        if text is not None:
            _merge(merged, _File(file, text).table())
    try:
        return _build(Settings, merged)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(text: str, file: str = "config.toml") -> Settings:
    """Settings from one file's text; `file` is for messages. Raises ConfigError."""
    table = _File(file, text).table()
    try:
        return _build(Settings, table)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error


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


class _File:
    """One file, checked by itself so that a message can name its line."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    def table(self) -> Table:
        try:
            table = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self._name}: {error}") from error
        self._check_table(Settings, table, ())
        return table

    def _check_table(self, kind: type, table: Table, path: tuple[str, ...]) -> None:
        hints = get_type_hints(kind)
        for key, value in table.items():
            if key not in hints:
                near = difflib.get_close_matches(key, hints, n=1)
                hint = f", did you mean {'.'.join((*path, near[0]))}?" if near else ""
                self._refuse((*path, key), f"unknown key {'.'.join((*path, key))}{hint}")
            self._check(hints[key], value, (*path, key))

    def _check(self, kind: Any, value: Any, path: tuple[str, ...]) -> None:
        """The value's type, and that of everything inside it."""
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            self._expect(isinstance(value, dict), path, "a table")
            self._check_table(kind, value, path)
        elif get_origin(kind) is tuple:
            self._expect(isinstance(value, list), path, "an array")
            for element in value:
                self._check(get_args(kind)[0], element, path)
        elif isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
            self._expect(isinstance(value, dict), path, "a table")
            for key, element in value.items():
                if path == ("handlers",) and not _HANDLER.fullmatch(key):
                    self._refuse((*path, key), f"handlers.{key}: a handler's name is an RFC 1123 label")
                self._check(get_args(kind)[1], element, (*path, key))
        else:
            self._check_scalar(kind, value, path)

    def _check_scalar(self, kind: Any, value: Any, path: tuple[str, ...]) -> None:
        wanted = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
        accepts: dict[Any, tuple[type, ...]] = {float: (int, float)}
        is_bool = isinstance(value, bool)
        fits = is_bool if kind is bool else isinstance(value, accepts.get(kind, (kind,))) and not is_bool
        self._expect(fits, path, wanted[kind])
        dotted = ".".join(path)
        if dotted in _CHOICES and value not in _CHOICES[dotted]:
            choices = ", ".join(map(repr, _CHOICES[dotted]))
            self._refuse(path, f"{dotted} is {value!r}, and must be one of {choices}")
        if dotted in _LEAST and not value >= _LEAST[dotted]:
            self._refuse(path, f"{dotted} is {value}, and must be at least {_LEAST[dotted]}")
        if dotted in _RULES and (problem := _RULES[dotted](value)):
            self._refuse(path, f"{dotted} is {value!r}, and must be {problem}")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(path, f"{dotted} must be a finite number")
        if isinstance(value, str) and not (value.isprintable() or not value):
            self._refuse(path, f"{dotted} has control characters in it")

    def _expect(self, fits: bool, path: tuple[str, ...], what: str) -> None:
        if not fits:
            self._refuse(path, f"{'.'.join(path)} must be {what}")

    def _refuse(self, path: tuple[str, ...], problem: str) -> None:
        line = _line_of(self._text, path)
        raise ConfigError(f"{self._name}:{line}: {problem}" if line else f"{self._name}: {problem}")


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """The line that sets a key, or that opens its table or a table in it; 0 when that cannot be told."""
    table: tuple[str, ...] = ()
    best = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _split(header[1])
            if table[: len(path)] == path and not best:
                best = number
        elif key := _KEY.match(line):
            full = (*table, *_split(key[1]))
            if full == path:
                return number
            if path[: len(full)] == full or (full[: len(path)] == path and not best):
                best = number
    return best


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(
        part[0] or part[1] or part[2] for part in re.findall(r'"([^"]*)"|\'([^\']*)\'|([^.\s]+)', dotted)
    )


def _merge(into: Table, table: Table) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _build(kind: type[Settings], table: Table) -> Settings:
    settings = _construct(kind, table)
    assert isinstance(settings, Settings)
    _check_whole(settings)
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


def _check_whole(settings: Settings) -> None:
    """What more than one key decides; raises ValueError."""
    if settings.default_handler not in settings.handlers:
        raise ValueError(
            f"default_handler is {settings.default_handler!r}, which is not among the handlers"
            f" ({', '.join(sorted(settings.handlers)) or 'none'})"
        )
    for name, handler in settings.handlers.items():
        for key in ("base_spec", "cni_conf_dir"):
            if problem := _absolute_or_none(getattr(handler, key)):
                raise ValueError(f"handlers.{name}.{key} is {getattr(handler, key)!r}, and must be {problem}")
    if len(os.fsencode(settings.socket_path)) > MAX_SOCKET_PATH:
        raise ValueError(f"socket {settings.socket_path} has a path of more than {MAX_SOCKET_PATH} bytes")
    if 0 < settings.log_size_max < MIN_LOG_SIZE:
        raise ValueError(f"log_size_max is {settings.log_size_max}: it must be 0 or at least {MIN_LOG_SIZE}")
    _check_images(settings.images)
    _check_streaming(settings.streaming)
    if settings.data == settings.state:
        raise ValueError("data and state are the same directory")


def _check_streaming(settings: StreamingSettings) -> None:
    """Each file has a use where it is named, and is named where it is needed."""
    with_files = settings.tls == "files"
    for key in ("cert_file", "key_file"):
        if bool(getattr(settings, key)) != with_files:
            needs = "is needed" if with_files else "is named, but used only"
            raise ValueError(f'streaming.{key} {needs} with streaming.tls = "files"')
    if settings.client_ca_file and settings.tls == "off":
        raise ValueError('streaming.client_ca_file is named, but streaming.tls is "off"')


def _check_images(settings: ImageSettings) -> None:
    if settings.gc_high > 100 or (settings.gc_high and settings.gc_low >= settings.gc_high):
        raise ValueError(
            f"images.gc_low is {settings.gc_low} and images.gc_high {settings.gc_high}: they are percents,"
            " and the low one must be below the high one"
        )
    for rule in settings.policy:
        if (rule.action == "signed") != bool(rule.keys):
            raise ValueError(
                f"images.policy {rule.match!r} has the action {rule.action!r} and {len(rule.keys)} keys:"
                " signed needs at least one, the others take none"
            )
