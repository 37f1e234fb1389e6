"""What goes between a runtime and CNI plugins: configuration, requests, results, errors (no I/O).

Source: the CNI specification, versions 0.1.0 to 1.1.0 (containernetworking/cni, SPEC.md). Keys of a
plugin's configuration that we do not know are its own and are passed on untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Any, Final, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DOCUMENT_BYTES: Final = 1 << 20
PLUGINS: Final = 32
TRY_AGAIN_LATER: Final = 11

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_VERSION_ORDER: Final = {version: index for index, version in enumerate(VERSIONS)}


class MalformedCni(ValueError):
    """A configuration or an answer is not what the specification says; names the field."""


class _PluginShape(msgspec.Struct):
    type: str
    capabilities: dict[str, bool] = {}


class _ListShape(msgspec.Struct, rename="camel"):
    name: str
    plugins: list[dict[str, Any]]
    cni_version: str = ""
    cni_versions: list[str] = []
    disable_check: bool | str = False
    disable_gc: bool | str = msgspec.field(default=False, name="disableGC")


class _ErrorShape(msgspec.Struct):
    code: int
    msg: str = ""
    details: str = ""


class _InterfaceShape(msgspec.Struct):
    name: str = ""
    mac: str = ""
    sandbox: str = ""


class _AddressShape(msgspec.Struct):
    address: str
    gateway: str = ""
    interface: int | None = None


class _OldAddressShape(msgspec.Struct):
    ip: str


class _ResultShape(msgspec.Struct):
    interfaces: list[_InterfaceShape] | None = None
    ips: list[_AddressShape] | None = None
    ip4: _OldAddressShape | None = None
    ip6: _OldAddressShape | None = None


class _VersionsShape(msgspec.Struct, rename="camel"):
    supported_versions: list[str]


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin of a network; `raw` is its whole configuration."""

    type: str
    capabilities: frozenset[str]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NetworkConf:
    """A network: its plugins in the order of ADD. `raw` is the list as it stands in the file."""

    name: str
    version: str
    plugins: tuple[Plugin, ...]
    disable_check: bool
    disable_gc: bool
    raw: Mapping[str, Any]

    def at_least(self, version: str) -> bool:
        """Whether the network speaks this version of the specification or a later one."""
        return _VERSION_ORDER[self.version] >= _VERSION_ORDER[version]


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD gave; `raw` goes to the next plugin and to DEL as prevResult."""

    addresses: tuple[str, ...]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PluginError:
    """A plugin's own words on why it failed (CNI specification, Error)."""

    code: int
    message: str
    details: str

    def __str__(self) -> str:
        text = self.message.strip() or "no message"
        if self.details.strip():
            text = f"{text}; {self.details.strip()}"
        return f"{text} (code {self.code})"


@dataclass(frozen=True, slots=True)
class Attachment:
    """Whom a request is about; `netns` is empty when the namespace is gone (allowed for DEL)."""

    container_id: str
    netns: str
    interface: str
    args: Mapping[str, str]


def parse_network(data: bytes) -> NetworkConf:
    """A .conflist, or a .conf with a single plugin. Raises MalformedCni naming the field."""
    document = _document(data, "network configuration")
    if "plugins" not in document:
        document = {
            "cniVersion": document.get("cniVersion", ""),
            "name": document.get("name"),
            "plugins": [document],
        }
    return network_from_document(document)


def network_from_document(document: Mapping[str, Any]) -> NetworkConf:
    """The network that a decoded list describes. Raises MalformedCni naming the field."""
    shape = _converted(document, _ListShape, "network configuration")
    if _NAME.fullmatch(shape.name) is None:
        raise MalformedCni(f"name {shape.name!r} is not letters, digits, _, . and -")
    if not 0 < len(shape.plugins) <= PLUGINS:
        raise MalformedCni(f"plugins: {len(shape.plugins)} entries, not 1 to {PLUGINS}")
    return NetworkConf(
        name=shape.name,
        version=_negotiated(shape),
        plugins=tuple(_plugin(raw, f"plugins[{index}]") for index, raw in enumerate(shape.plugins)),
        disable_check=_truth(shape.disable_check),
        disable_gc=_truth(shape.disable_gc),
        raw=document,
    )


def request(
    network: NetworkConf,
    plugin: Plugin,
    runtime_config: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """What a plugin reads on stdin: its configuration, with only the capabilities that it declares."""
    document = dict(plugin.raw)
    document.pop("capabilities", None)
    document["cniVersion"] = network.version
    document["name"] = network.name
    granted = {key: value for key, value in runtime_config.items() if key in plugin.capabilities}
    if granted:
        document["runtimeConfig"] = granted
    if previous is not None:
        document["prevResult"] = previous
    document.update(extra or {})
    return msgspec.json.encode(document)


def environment(command: str, attachment: Attachment | None, path: Sequence[str]) -> dict[str, str]:
    """The CNI_* variables of a request. Raises MalformedCni for an argument that would read as two."""
    variables = {"CNI_COMMAND": command, "CNI_PATH": ":".join(path)}
    if attachment is None:
        return variables
    if _NAME.fullmatch(attachment.container_id) is None:
        raise MalformedCni(f"container id {attachment.container_id!r} is not letters, digits, _, . and -")
    for key, value in attachment.args.items():
        if ";" in value or "\0" in value:
            raise MalformedCni(f"argument {key}={value!r} contains a semicolon or NUL")
    variables["CNI_CONTAINERID"] = attachment.container_id
    variables["CNI_NETNS"] = attachment.netns
    variables["CNI_IFNAME"] = attachment.interface
    variables["CNI_ARGS"] = ";".join(f"{key}={value}" for key, value in attachment.args.items())
    return variables


def parse_result(data: bytes, interface: str) -> Result:
    """What ADD printed, of any version; the addresses are those of `interface` in the pod."""
    document = _document(data, "result")
    shape = _converted(document, _ResultShape, "result")
    old = [address.ip for address in (shape.ip4, shape.ip6) if address is not None]
    texts = old or [item.address for item in shape.ips or () if _belongs(item, shape, interface)]
    return Result(tuple(_host_part(text) for text in texts), document)


def parse_error(data: bytes) -> PluginError | None:
    """The error that a failed plugin printed; None if it printed something else."""
    try:
        shape = _converted(_document(data, "error"), _ErrorShape, "error")
    except MalformedCni:
        return None
    return PluginError(shape.code, shape.msg, shape.details)


def parse_versions(data: bytes) -> tuple[str, ...]:
    """What VERSION printed."""
    return tuple(_converted(_document(data, "version"), _VersionsShape, "version").supported_versions)


def check_plugin_type(plugin_type: str) -> str:
    """The type itself; MalformedCni if it could name a file outside the plugin directories."""
    if not plugin_type or plugin_type in {".", ".."} or any(char in plugin_type for char in "/\\\0"):
        raise MalformedCni(f"type {plugin_type!r} is not a plain file name")
    if ".." in plugin_type or len(plugin_type) > 255:
        raise MalformedCni(f"type {plugin_type!r} is not a plain file name")
    return plugin_type


def _plugin(raw: dict[str, Any], where: str) -> Plugin:
    shape = _converted(raw, _PluginShape, where)
    try:
        plugin_type = check_plugin_type(shape.type)
    except MalformedCni as error:
        raise MalformedCni(f"{where}: {error}") from error
    granted = frozenset(name for name, wanted in shape.capabilities.items() if wanted)
    return Plugin(plugin_type, granted, raw)


def _negotiated(shape: _ListShape) -> str:
    """The highest version offered that we speak; a list without any is 0.1.0."""
    offered = [version for version in (*shape.cni_versions, shape.cni_version) if version] or ["0.1.0"]
    spoken = [version for version in offered if version in _VERSION_ORDER]
    if not spoken:
        raise MalformedCni(f"cniVersion {offered[-1]!r} is not one of {', '.join(VERSIONS)}")
    return max(spoken, key=_VERSION_ORDER.__getitem__)


def _truth(value: bool | str) -> bool:
    """disableCheck may be written as a string (libcni takes both)."""
    if isinstance(value, str):
        return value.strip().lower() in {"1", "t", "true"}
    return value


def _belongs(item: _AddressShape, shape: _ResultShape, interface: str) -> bool:
    interfaces = shape.interfaces or []
    if item.interface is None or not interfaces:
        return True
    if not 0 <= item.interface < len(interfaces):
        raise MalformedCni(f"result: ips: interface {item.interface} of {len(interfaces)} interfaces")
    owner = interfaces[item.interface]
    return bool(owner.sandbox) and owner.name == interface


def _host_part(text: str) -> str:
    try:
        return str(ip_interface(text).ip)
    except ValueError as error:
        raise MalformedCni(f"result: {text!r} is not an address with a prefix length") from error


def _document(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > DOCUMENT_BYTES:
        raise MalformedCni(f"{what}: {len(data)} bytes, more than {DOCUMENT_BYTES}")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedCni(f"{what}: {error}") from error


def _converted(document: Any, shape: type[S], what: str) -> S:
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise MalformedCni(f"{what}: {error}") from error
