"""Keeps odd requests from touching this machine: what they say of it is moved into a haven made for them.

`tame` is the only gate: everything that is sent has passed it, however it was made.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2

SYSCTLS = (
    "kernel.shm_rmid_forced",
    "kernel.msgmax",
    "fs.mqueue.msg_max",
    "net.ipv4.ip_local_port_range",
    "net.core.somaxconn",
    "net/ipv4/conf/eth0.1/rp_filter",
    "net.nosuch.file",
    "kernel.nosuch",
    "vm.nosuch",
)
"""The first six belong to namespaces; `tame` keeps them from pods that have the node's."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_OUR_HOST = "127.83.0.9"
"""Where host ports are published: no server of this machine listens there."""


@dataclass(frozen=True)
class Haven:
    """The places of the host that requests may name: `top` is a directory made for that."""

    top: str
    logs: str
    cgroup: str
    subnet: str

    def fill(self) -> None:
        """One of each kind of file."""
        top = Path(self.top)
        (top / "directory").mkdir()
        (top / "file").write_bytes(b"content\n")
        (top / "link").symlink_to("directory")
        (top / "loop").symlink_to("loop")
        (top / "nowhere").symlink_to("not/there")
        os.mkfifo(top / "fifo")
        os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(f"{self.top}/socket")
        (top / "profile.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')

    def places(self) -> tuple[str, ...]:
        names = ("directory", "file", "link", "loop", "nowhere", "fifo", "device", "socket", "profile.json")
        return (self.top, *(f"{self.top}/{name}" for name in (*names, "file/below", "new", "archive.tar")))


def tame(message: Message, haven: Haven) -> None:
    """Move whatever the request says about this machine into the haven; everything else stays odd."""
    for part in _messages(message):
        rule = _RULES.get(type(part))
        if rule is not None:
            rule(part, haven)


def _within(path: str, top: str) -> str:
    """Relative and empty paths are refused, so they may stay."""
    if not path.startswith("/") or (f"{path}/".startswith(f"{top}/") and ".." not in path.split("/")):
        return path
    return f"{top}/{path.lstrip('/')}"


def _tame_pod(part: api_pb2.PodSandboxConfig, haven: Haven) -> None:
    part.log_directory = _within(part.log_directory, haven.logs)
    linux = part.linux if part.HasField("linux") else None
    for port in part.port_mappings:
        if _is_any_address(port.host_ip):
            port.host_ip = _OUR_HOST
    if linux is None:
        return
    if parent := linux.cgroup_parent:
        # a slice's place is at the top, beside everybody's: no request names one with this driver
        below = parent if parent.startswith(f"{haven.cgroup}/") else f"{haven.cgroup}/fuzz/{parent}"
        linux.cgroup_parent = below.removesuffix(".slice")
    options = linux.security_context.namespace_options
    owns = api_pb2.NODE not in (options.network, options.ipc)
    for key in list(linux.sysctls):
        if not key.startswith("fuzz.") and (key not in SYSCTLS or (key in SYSCTLS[:6] and not owns)):
            linux.sysctls[f"fuzz.{key}"] = linux.sysctls.pop(key)


def _is_any_address(text: str) -> bool:
    """Empty, any, and whatever is an address of this machine."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return not text
    return address.is_unspecified or address.is_loopback


def _tame_mount(part: api_pb2.Mount, haven: Haven) -> None:
    part.host_path = _within(part.host_path, haven.top)


def _tame_device(part: api_pb2.Device, haven: Haven) -> None:
    if part.host_path not in DEVICES:
        part.host_path = _within(part.host_path, haven.top)


def _tame_profile(part: api_pb2.SecurityProfile, haven: Haven) -> None:
    part.localhost_ref = _profile(part.localhost_ref, haven)


def _profile(text: str, haven: Haven) -> str:
    prefix = "localhost/" if text.startswith("localhost/") else ""
    return prefix + _within(text.removeprefix(prefix), haven.top)


def _tame_security(
    part: api_pb2.LinuxSandboxSecurityContext | api_pb2.LinuxContainerSecurityContext, haven: Haven
) -> None:
    part.seccomp_profile_path = _profile(part.seccomp_profile_path, haven)


def _tame_path(part: node_pb2.ImportImageRequest | node_pb2.ExportImagesRequest, haven: Haven) -> None:
    part.path = _within(part.path, haven.top)


def _tame_checkpoint(part: api_pb2.CheckpointContainerRequest, haven: Haven) -> None:
    part.location = _within(part.location, haven.top)


def _tame_pod_checkpoint(part: api_pb2.CheckpointPodRequest, haven: Haven) -> None:
    part.output_path = _within(part.output_path, haven.top)


def _tame_restore(part: api_pb2.RestorePodRequest, haven: Haven) -> None:
    part.checkpoint_path = _within(part.checkpoint_path, haven.top)


def _tame_network(part: api_pb2.NetworkConfig, haven: Haven) -> None:
    """The bridge's own range, or a part of it, for whatever could be one."""
    own = ipaddress.ip_network(haven.subnet)
    for text in part.pod_cidr.split(","):
        try:
            wanted = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            continue
        if wanted.version == 4:
            part.pod_cidr = f"{own.network_address}/{max(wanted.prefixlen, own.prefixlen)}"
        elif part.pod_cidr:
            part.pod_cidr = "x"


_RULES: dict[type[Message], Callable[[Any, Haven], None]] = {
    api_pb2.PodSandboxConfig: _tame_pod,
    api_pb2.Mount: _tame_mount,
    api_pb2.Device: _tame_device,
    api_pb2.SecurityProfile: _tame_profile,
    api_pb2.LinuxSandboxSecurityContext: _tame_security,
    api_pb2.LinuxContainerSecurityContext: _tame_security,
    node_pb2.ImportImageRequest: _tame_path,
    node_pb2.ExportImagesRequest: _tame_path,
    api_pb2.CheckpointContainerRequest: _tame_checkpoint,
    api_pb2.CheckpointPodRequest: _tame_pod_checkpoint,
    api_pb2.RestorePodRequest: _tame_restore,
    api_pb2.NetworkConfig: _tame_network,
}
"""Every message that can name something of the host."""


def _messages(message: Message) -> Iterator[Message]:
    """It and all that are set in it and can have a rule."""
    yield message
    for each, value in message.ListFields():
        if not each.message_type or not _is_ruled(each.message_type):
            continue
        for part in value if is_repeated(each) else (value,):
            yield from _messages(part)


@functools.cache
def _is_ruled(descriptor: Descriptor) -> bool:
    """Whether a rule is for this message or for one below it."""
    if any(kind.DESCRIPTOR is descriptor for kind in _RULES):
        return True
    return any(_is_ruled(each.message_type) for each in descriptor.fields if each.message_type)


def is_repeated(wanted: FieldDescriptor) -> bool:
    return bool(wanted.is_repeated)


def is_map(wanted: FieldDescriptor) -> bool:
    return bool(wanted.message_type and wanted.message_type.GetOptions().map_entry)
