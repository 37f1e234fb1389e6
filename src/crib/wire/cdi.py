"""Documents of the Container Device Interface, versions 0.1 to 1.x: JSON, or YAML with nothing JSON lacks.

A member that is not known is refused: a device must not come without something that its maker counts on.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

_VERSION = re.compile(r"[01]\.\d{1,3}\.\d{1,3}")
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?"
_KIND = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_QUALIFIED = re.compile(rf"({_KIND.pattern})=({_NAME})")
ANNOTATION = "cdi.k8s.io/"
"""Beginning of the keys of container annotations whose values are lists of devices."""
_MAX_DEVICES = 10_000
MAX_DEPTH = 50
"""Collections of a YAML document within one another; a CDI file has six."""


class _Shape(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """The root of all shapes."""


class DeviceNode(_Shape, frozen=True):
    """SPEC.md, deviceNodes. `type`, `major` and `minor` may be left to the node on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Shape, frozen=True):
    """SPEC.md, mounts."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Shape, frozen=True):
    """SPEC.md, hooks."""

    hook_name: Literal[
        "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
    ]
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class NetDevice(_Shape, frozen=True):
    """SPEC.md, netDevices: an interface of the host, and its name in the container (empty: the same)."""

    host_interface_name: str
    name: str = ""


class IntelRdt(_Shape, frozen=True):
    """SPEC.md, intelRdt."""

    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = ""
    schemata: tuple[str, ...] = ()
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")
    enable_monitoring: bool = False


class Edits(_Shape, frozen=True):
    """SPEC.md, containerEdits."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = ()
    intel_rdt: IntelRdt | None = None
    net_devices: tuple[NetDevice, ...] = ()


class Device(_Shape, frozen=True):
    """SPEC.md, devices."""

    name: str
    container_edits: Edits
    annotations: dict[str, str] = {}


class Document(_Shape, frozen=True):
    """A whole file. `kind` is VENDOR/CLASS."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...]
    container_edits: Edits = Edits()
    annotations: dict[str, str] = {}


def decode(data: bytes, *, yaml: bool = False) -> Document:
    """A CDI file's content. ValueError, with the place, for anything that is not right in it."""
    document = _from_yaml(data) if yaml else msgspec.json.decode(data, type=Document)
    if _VERSION.fullmatch(document.cdi_version) is None:
        raise ValueError(f"cdiVersion {document.cdi_version!r} is not one that is known")
    if _KIND.fullmatch(document.kind) is None:
        raise ValueError(f"kind {document.kind!r} is not VENDOR/CLASS")
    if len(document.devices) > _MAX_DEVICES:
        raise ValueError(f"{len(document.devices)} devices are more than {_MAX_DEVICES}")
    names = set()
    _check(document.container_edits, "containerEdits")
    for device in document.devices:
        if re.fullmatch(_NAME, device.name) is None or device.name in names:
            raise ValueError(f"device {device.name!r} appears twice, or has an invalid name")
        names.add(device.name)
        _check(device.container_edits, f"devices {device.name}")
    return document


def split_name(name: str) -> tuple[str, str]:
    """Kind and device of a qualified name, VENDOR/CLASS=NAME; ValueError when it is not one."""
    match = _QUALIFIED.fullmatch(name)
    if match is None:
        raise ValueError(f"{name[:200]!r} is not VENDOR/CLASS=NAME")
    return match[1], match[2]


def _from_yaml(data: bytes) -> Document:
    # Imported only if such a file exists: the daemon is smaller without it.
    import yaml

    try:
        text = data.decode()
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if type(event) is yaml.AliasEvent:
                raise ValueError("aliases are not supported")  # a few lines of them are gigabytes
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # the parser's time grows with its square
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        value = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML: {error}".replace("\n", " ")) from error
    return msgspec.convert(value, type=Document)


def _check(edits: Edits, where: str) -> None:
    for entry in edits.env:
        if entry.find("=") < 1 or "\0" in entry:
            raise ValueError(f"{where}: env {entry[:80]!r} is not NAME=VALUE")
    for node in edits.device_nodes:
        _check_path(node.path, f"{where}: deviceNodes")
        if node.type not in ("", "b", "c", "u"):
            raise ValueError(f"{where}: {node.path}: type {node.type!r} is not b, c or u")
        if set(node.permissions) - set("rwm"):
            raise ValueError(f"{where}: {node.path}: {node.permissions!r} is not made of r, w and m")
        if node.host_path:
            _check_path(node.host_path, f"{where}: deviceNodes")
    for mount in edits.mounts:
        _check_path(mount.container_path, f"{where}: mounts")
        if not mount.host_path:
            raise ValueError(f"{where}: {mount.container_path} has no hostPath")
    for hook in edits.hooks:
        _check_path(hook.path, f"{where}: hooks")
    if any(not 0 < group < 2**31 for group in edits.additional_gids):
        raise ValueError(f"{where}: additionalGids has something in it that is not a group")


def _check_path(path: str, where: str) -> None:
    if not path.startswith("/") or "\0" in path or path.strip("/") == "" or ".." in path.split("/"):
        raise ValueError(f"{where}: {path!r} is not an absolute path without '..'")
