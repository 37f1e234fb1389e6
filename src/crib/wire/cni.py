"""What goes between a runtime and CNI plugins: configuration, requests, errors (no I/O).

Source: the CNI specification, versions 0.1.0 to 1.1.0 (containernetworking/cni, SPEC.md). Keys of a
plugin's configuration that we do not know are its own and are passed on untouched. Results: `cni_result`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DOCUMENT_BYTES = 1 << 20
PLUGINS = 32
INTERFACE_NAME_BYTES = 15

UNKNOWN_CONTAINER = 3
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51
CODES = {
    1: "incompatible CNI version",
    2: "unsupported field in the configuration",
    UNKNOWN_CONTAINER: "unknown container",
    4: "invalid environment variable",
    5: "i/o failure",
    6: "cannot decode content",
    7: "invalid network configuration",
    TRY_AGAIN_LATER: "try again later",
    NOT_AVAILABLE: "plugin not available",
    LIMITED_CONNECTIVITY: "plugin not available, limited connectivity",
}
"""What the specification's error codes mean; others are a plugin's own."""

Beside: TypeAlias = Callable[[str], Iterable[tuple[str, bytes]]]
"""For a network's name: path and content of the plugin configurations in the directory of that name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_ARGUMENT = re.compile(r"[A-Za-z0-9_]+")
_VERSION_ORDER = {version: index for index, version in enumerate(VERSIONS)}
_RUNTIMES_OWN = "cni.dev/"


class MalformedCni(ValueError):
    """A configuration or an answer is not what the specification says; names the field."""


class _PluginShape(msgspec.Struct):
    type: str
    capabilities: dict[str, bool] | None = None


class _ListShape(msgspec.Struct, rename="camel"):
    name: str
    plugins: list[dict[str, Any]] = []
    cni_version: str = ""
    cni_versions: list[str] = []
    disable_check: bool | str = False
    disable_gc: bool | str = msgspec.field(default=False, name="disableGC")
    load_only_inlined_plugins: bool | str = False


class _ErrorShape(msgspec.Struct):
    code: int
    msg: str = ""
    details: str = ""


class _VersionsShape(msgspec.Struct, rename="camel"):
    supported_versions: list[str] = []
    cni_version: str = ""


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
class PluginError:
    """A plugin's own words on why it failed (CNI specification, Error)."""

    code: int
    message: str
    details: str

    def __str__(self) -> str:
        text = self.message.strip() or CODES.get(self.code, "no message")
        if self.details.strip():
            text = f"{text}; {self.details.strip()}"
        return f"{text} (code {self.code})"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The container of a request. `netns` is empty if the namespace is gone (allowed for DEL)."""

    container_id: str
    netns: str
    interface: str
    args: Mapping[str, str]


def parse_network(data: bytes, beside: Beside | None = None) -> NetworkConf:
    """A .conflist, or a .conf with a single plugin. Raises MalformedCni naming the field.

    The plugins from `beside` come after those of a list, unless it says `loadOnlyInlinedPlugins` (libcni
    reads them from `*.conf` in the directory NAME next to the file, in lexical order).
    """
    document = decoded(data, "network configuration")
    if "plugins" not in document and "type" in document:
        document = {
            "cniVersion": document.get("cniVersion", ""),
            "name": document.get("name"),
            "plugins": [document],
        }
    elif beside is not None:
        document = _with_plugins_beside(document, beside)
    return network_from_document(document)


def network_from_document(document: Mapping[str, Any]) -> NetworkConf:
    """The network that a decoded list with its plugins describes. Raises MalformedCni naming the field."""
    shape = _list_shape(document)
    if not 0 < len(shape.plugins) <= PLUGINS:
        raise MalformedCni(f"plugins: {len(shape.plugins)} entries, not 1 to {PLUGINS}")
    return NetworkConf(
        name=shape.name,
        version=_negotiated(shape),
        plugins=tuple(_plugin(raw, f"plugins[{index}]") for index, raw in enumerate(shape.plugins)),
        disable_check=_truth(shape.disable_check, "disableCheck"),
        disable_gc=_truth(shape.disable_gc, "disableGC"),
        raw=document,
    )


def is_name(text: str) -> bool:
    """Whether the text may be the name of a network or the id of a container; such one is no path."""
    return _NAME.fullmatch(text) is not None


def request(
    network: NetworkConf,
    plugin: Plugin,
    runtime_config: Mapping[str, Any],
    previous: Mapping[str, Any] | None,
) -> bytes:
    """What a plugin reads on stdin: its configuration, with only the capabilities that it declares."""
    document = _request_document(network, plugin)
    granted = {key: value for key, value in runtime_config.items() if key in plugin.capabilities}
    if granted:
        document["runtimeConfig"] = granted
    if previous is not None:
        document["prevResult"] = previous
    return msgspec.json.encode(document)


def gc_request(network: NetworkConf, plugin: Plugin, valid: Iterable[tuple[str, str]]) -> bytes:
    """What a plugin reads on stdin for GC; `valid` are the attachments that stay: container id, interface."""
    document = _request_document(network, plugin)
    attachments = [{"containerID": container, "ifname": interface} for container, interface in valid]
    document["cni.dev/valid-attachments"] = attachments
    # Plugins made before the specification corrected itself look for this name; libcni sends both.
    document["cni.dev/attachments"] = attachments
    return msgspec.json.encode(document)


def environment(command: str, attachment: Attachment | None, path: Sequence[str]) -> dict[str, str]:
    """The CNI_* variables of a request. Raises MalformedCni for an argument that would read as two."""
    variables = {"CNI_COMMAND": command, "CNI_PATH": ":".join(path)}
    if attachment is None:
        return variables
    if not is_name(attachment.container_id):
        raise MalformedCni(f"container id {attachment.container_id!r} is not letters, digits, _, . and -")
    if command in {"ADD", "CHECK"} and not attachment.netns:
        raise MalformedCni(f"{command} needs a network namespace")
    check_interface_name(attachment.interface)
    for key, value in attachment.args.items():
        if _ARGUMENT.fullmatch(key) is None or any(char in value for char in ";=\0"):
            raise MalformedCni(f"argument {key}={value!r} contains a semicolon, an equals sign or NUL")
    variables["CNI_CONTAINERID"] = attachment.container_id
    variables["CNI_NETNS"] = attachment.netns
    variables["CNI_IFNAME"] = attachment.interface
    variables["CNI_ARGS"] = ";".join(f"{key}={value}" for key, value in attachment.args.items())
    return variables


def check_interface_name(name: str) -> str:
    """The name itself; MalformedCni if the kernel would not take it (dev_valid_name in net/core/dev.c)."""
    if not 0 < len(name.encode("utf-8", "surrogateescape")) <= INTERFACE_NAME_BYTES:
        raise MalformedCni(f"interface name {name!r} is not 1 to {INTERFACE_NAME_BYTES} bytes")
    if name in {".", ".."} or any(char in "/:\0" or char.isspace() for char in name):
        raise MalformedCni(f"interface name {name!r} is . or .., or contains a slash, colon or space")
    return name


def parse_error(data: bytes) -> PluginError | None:
    """The error that a failed plugin printed; None if it printed something else."""
    try:
        shape = shaped(decoded(data, "error"), _ErrorShape, "error")
    except MalformedCni:
        return None
    return PluginError(shape.code, shape.msg, shape.details)


def parse_versions(data: bytes) -> tuple[str, ...]:
    """What VERSION printed. Raises MalformedCni if it names no version."""
    shape = shaped(decoded(data, "version"), _VersionsShape, "version")
    if not shape.supported_versions and shape.cni_version == "0.2.0":
        return VERSIONS[:2]  # 0.2.0 let a plugin leave the list out
    if not shape.supported_versions:
        raise MalformedCni("version: supportedVersions is missing or empty")
    return tuple(shape.supported_versions)


def decoded(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object; MalformedCni beginning with `what` if it is none or too long."""
    if len(data) > DOCUMENT_BYTES:
        raise MalformedCni(f"{what}: {len(data)} bytes, more than {DOCUMENT_BYTES}")
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedCni(f"{what}: {error}") from error


def shaped(document: Any, shape: type[S], what: str) -> S:
    """A decoded document as its struct; MalformedCni beginning with `what` and naming the field."""
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        raise MalformedCni(f"{what}: {error}") from error


def check_plugin_type(plugin_type: str) -> str:
    """The type itself; MalformedCni if it could name a file outside the plugin directories."""
    if not plugin_type or plugin_type in {".", ".."} or any(char in plugin_type for char in "/\\\0"):
        raise MalformedCni(f"type {plugin_type!r} is not a plain file name")
    if ".." in plugin_type or len(plugin_type) > 255:
        raise MalformedCni(f"type {plugin_type!r} is not a plain file name")
    return plugin_type


def _list_shape(document: Mapping[str, Any]) -> _ListShape:
    shape = shaped(document, _ListShape, "network configuration")
    if not is_name(shape.name):
        raise MalformedCni(f"name {shape.name!r} is not letters, digits, _, . and -")
    return shape


def _with_plugins_beside(document: dict[str, Any], beside: Beside) -> dict[str, Any]:
    shape = _list_shape(document)
    if _truth(shape.load_only_inlined_plugins, "loadOnlyInlinedPlugins"):
        if "plugins" not in document:
            raise MalformedCni("loadOnlyInlinedPlugins is true and there is no plugins")
        return document
    plugins = list(shape.plugins)
    for path, data in beside(shape.name):
        raw = decoded(data, path)
        _plugin(raw, path)  # an error names the file
        plugins.append(raw)
    return {**document, "plugins": plugins}


def _request_document(network: NetworkConf, plugin: Plugin) -> dict[str, Any]:
    """The plugin's own keys, without those that are the runtime's to set (section 3, deriving)."""
    document = {
        key: value
        for key, value in plugin.raw.items()
        if key not in {"capabilities", "prevResult"} and not key.startswith(_RUNTIMES_OWN)
    }
    document["cniVersion"] = network.version
    document["name"] = network.name
    return document


def _plugin(raw: dict[str, Any], where: str) -> Plugin:
    shape = shaped(raw, _PluginShape, where)
    try:
        plugin_type = check_plugin_type(shape.type)
    except MalformedCni as error:
        raise MalformedCni(f"{where}: {error}") from error
    granted = frozenset(name for name, wanted in (shape.capabilities or {}).items() if wanted)
    return Plugin(plugin_type, granted, raw)


def _negotiated(shape: _ListShape) -> str:
    """The highest version offered that we speak; a list without any is 0.1.0."""
    offered = [version for version in (*shape.cni_versions, shape.cni_version) if version] or ["0.1.0"]
    spoken = [version for version in offered if version in _VERSION_ORDER]
    if not spoken:
        raise MalformedCni(f"cniVersion {offered[-1]!r} is not one of {', '.join(VERSIONS)}")
    return max(spoken, key=_VERSION_ORDER.__getitem__)


def _truth(value: bool | str, field: str) -> bool:
    """disableCheck and the like may be written as a string (libcni takes both)."""
    if not isinstance(value, str):
        return value
    if value.lower() not in {"1", "t", "true", "0", "f", "false"}:
        raise MalformedCni(f"{field} {value!r} is neither true nor false")
    return value.lower() in {"1", "t", "true"}
