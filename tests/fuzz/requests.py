"""Odd requests for every call, drawn from the descriptors of `crib.stubs`; none of them can touch the host.

draw = OddRequests(random.Random("seed"), haven)
request = draw.request("CreateContainer", world)      # a fair request, with some fields that are not
tame(request, haven)                                  # whatever names the host is within the haven now
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2
from tests.fuzz.taming import DEVICES, SYSCTLS, Haven, is_map, is_repeated, tame

SERVICES = (
    *api_pb2.DESCRIPTOR.services_by_name.values(),
    *node_pb2.DESCRIPTOR.services_by_name.values(),
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}
"""Every call that the daemon serves, by its name."""

BIG = 12 << 20
"""Bytes that a request grows to at most: with its frame it stays below what the daemon receives."""
_MANY = (40, 300, 1_500, 3_000, 21_000, 66_000)
_NUMBERS = (0, 1, -1, 2, -2, 7, 1000, 1023, 1024, 65535, 65536, 262144, 262145, 1_000_000, 4_194_304, 1 << 29)
_EDGES = (31, 32, 53, 63, 64)
_TEXTS = (
    "",
    " ",
    "a",
    "-",
    "--help",
    "0",
    "-1",
    "max",
    "true",
    ".",
    "..",
    "../../x",
    "/",
    "//",
    "/x/../y",
    "a/b",
    "a\0b",
    "a\nb",
    "a\tb",
    "%s%n",
    "${x}",
    "'\"\\`",
    "é",
    "ü" * 100,
    "日本語",
    "\u202e\u200d",
    "\x1b[2J\x9b",
    "\ufeff",
    "🐚" * 70,
    "x" * 63,
    "x" * 64,
    "x" * 250,
    "x" * 256,
    "x" * 4000,
    "x" * 4096,
    "x" * 70_000,
    "a/" * 1000,
    "/" + "d/" * 1000,
    "/" + "d" * 256,
    "9" * 30,
    "0-4095",
    "0-1,4095",
    "1-0",
    "a=b",
)
_ADDRESSES = ("", "0.0.0.0", "127.83.0.9", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "300.1.1.1")
_CIDRS = (
    "",
    "10.0.0.0/8",
    "10.0.0.0/30",
    "0.0.0.0/0",
    "10.0.0.1/32",
    "fd00::/64",
    "10.0.0.0/8,fd00::/64",
    "x",
)
_MOUNT_OPTIONS = ("ro", "noexec", "nosuid", "rw", "suid", "bind", "remount", "lowerdir=/x", "")
_CAPABILITIES = ("ALL", "all", "CAP_NET_ADMIN", "net_admin", "SYS_ADMIN", "NO_SUCH", "")
_KEYS = {
    "sysctls": SYSCTLS,
    "unified": ("pids.max", "memory.high", "cpu.idle", "cgroup.kill", "hugetlb.2MB.max"),
    "annotations": ("cdi.k8s.io/x", "io.crib.platform", "kubernetes.io/ingress-bandwidth", "run.oci.keep"),
}
"""Keys of maps that somebody reads."""
_COMMANDS = (
    ("sleep", "1000"),
    ("sleep", "1000"),
    ("true",),
    ("false",),
    ("echo", "hello"),
    ("cat",),
    ("yes",),
    ("/no/such",),
    ("/",),
    ("",),
    (),
)


@dataclass
class World:
    """What the requests can be about: ids that the daemon gave."""

    image: str
    pods: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    configs: dict[str, api_pb2.PodSandboxConfig] = field(default_factory=dict)


class OddRequests:
    """Draws requests; the same seed and world give the same ones."""

    def __init__(self, draw: random.Random, haven: Haven) -> None:
        self._draw = draw
        self._haven = haven
        self._by_name = self._pools()

    def request(self, method: str, world: World, oddities: int | None = None) -> Message:
        """A request that could succeed, with `oddities` fields that are not as they should be."""
        kind: type[Message] = cast(Any, METHODS[method].input_type)._concrete_class
        message: Message = self.fair(kind, world)
        count = self._draw.choice((0, 1, 1, 1, 2, 3, 6)) if oddities is None else oddities
        for _ in range(count):
            self.spoil(message)
        tame(message, self._haven)
        return message

    def fair(self, kind: type[Message], world: World) -> Any:
        """As a client would send it."""
        message: Any = kind()
        for name in message.DESCRIPTOR.fields_by_name:
            made = self._fair_field(name, world)
            if made is None:
                continue
            if isinstance(made, Message):
                if message.DESCRIPTOR.fields_by_name[name].message_type is made.DESCRIPTOR:
                    getattr(message, name).CopyFrom(made)
            elif isinstance(made, tuple):
                getattr(message, name).extend(made)
            elif isinstance(made, str) and message.DESCRIPTOR.fields_by_name[name].type == (
                FieldDescriptor.TYPE_STRING
            ):
                setattr(message, name, made)
        if isinstance(message, api_pb2.RunPodSandboxRequest | api_pb2.CreateContainerRequest):
            fresh = (
                self.pod(world)
                if isinstance(message, api_pb2.RunPodSandboxRequest)
                else self.container(world)
            )
            message.config.CopyFrom(fresh)  # type: ignore[arg-type]  # one of two, as the line above chose
        if isinstance(message, node_pb2.ExplainContainerRequest) and self._draw.random() < 0.7:
            message.Clear()
            message.config.CopyFrom(self.container(world))
            message.sandbox_config.CopyFrom(self.pod(world))
        if isinstance(message, api_pb2.UpdateContainerResourcesRequest):
            message.linux.cpu_shares = 512
        return message

    def _fair_field(self, name: str, world: World) -> Message | tuple[str, ...] | str | None:
        known = {
            "pod_sandbox_id": world.pods,
            "container_id": world.containers,
            "pod": world.pods,
        }
        if name in known:
            return self._draw.choice(known[name] or ["f" * 64])
        if name == "cmd":
            return self._draw.choice(_COMMANDS[:5])
        if name == "image":
            return api_pb2.ImageSpec(image=world.image)
        if name == "path":
            return f"{self._haven.top}/archive.tar"
        if name == "images":
            return (world.image,)
        if name == "targets":
            return ("tcp:80",)
        return None

    def pod(self, world: World) -> api_pb2.PodSandboxConfig:
        """A pod that runs."""
        name = f"p{self._draw.getrandbits(40):x}"
        pid = self._draw.choice((api_pb2.CONTAINER, api_pb2.CONTAINER, api_pb2.POD))
        options = api_pb2.NamespaceOption(pid=pid)
        if self._draw.random() < 0.15:
            ids = api_pb2.IDMapping(host_id=(16 + len(world.pods)) << 16, length=65536)  # no other pod's
            options.userns_options.CopyFrom(api_pb2.UserNamespace(mode=api_pb2.POD, uids=[ids], gids=[ids]))
        security = api_pb2.LinuxSandboxSecurityContext(
            namespace_options=options, privileged=self._draw.random() < 0.15
        )
        return api_pb2.PodSandboxConfig(
            metadata=api_pb2.PodSandboxMetadata(name=name, uid=name, namespace="odd"),
            log_directory=f"{self._haven.logs}/{name}",
            linux=api_pb2.LinuxPodSandboxConfig(security_context=security),
        )

    def container(self, world: World) -> api_pb2.ContainerConfig:
        """A container that starts."""
        name = f"c{self._draw.getrandbits(40):x}"
        options = api_pb2.NamespaceOption(pid=api_pb2.CONTAINER)
        return api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name=name),
            image=api_pb2.ImageSpec(image=world.image),
            command=self._draw.choice(_COMMANDS[:5]),
            log_path=f"{name}.log",
            linux=api_pb2.LinuxContainerConfig(
                security_context=api_pb2.LinuxContainerSecurityContext(namespace_options=options),
            ),
        )

    def spoil(self, message: Message) -> None:
        """Set one field somewhere in it to something odd."""
        descriptor = message.DESCRIPTOR
        if not descriptor.fields:
            return
        chosen: Any = self._draw.choice(descriptor.fields)
        holder: Any = message
        if (
            chosen.type == FieldDescriptor.TYPE_MESSAGE
            and not is_repeated(chosen)
            and self._draw.random() < 0.9
        ):
            self.spoil(getattr(holder, chosen.name))
            return
        if self._draw.random() < 0.05:
            holder.ClearField(chosen.name)
            return
        self._set(holder, chosen)

    def _set(self, holder: Any, chosen: Any) -> None:
        if not is_repeated(chosen):
            if chosen.type == FieldDescriptor.TYPE_MESSAGE:
                self._fill(getattr(holder, chosen.name), 3)
            else:
                setattr(holder, chosen.name, self._value(chosen))
            return
        count = self._draw.choice((1, 1, 2, 3)) if self._draw.random() < 0.95 else self._draw.choice(_MANY)
        values = getattr(holder, chosen.name)
        if is_map(chosen):
            self._set_map(values, chosen, count)
        elif chosen.type == FieldDescriptor.TYPE_MESSAGE:
            first = values.add()
            self._fill(first, 3)
            size = max(first.ByteSize(), 1)
            for number in range(min(count, BIG // (size + 8)) - 1):
                values.add().CopyFrom(first)
                _tell_apart(values[-1], number)
        else:
            value = self._value(chosen)
            size = len(value.encode()) if isinstance(value, str) else 10
            values.extend([value] * max(1, min(count, BIG // (size + 8))))

    def _set_map(self, values: Any, chosen: Any, count: int) -> None:
        known = _KEYS.get(chosen.name) if self._draw.random() < 0.7 else None
        key = self._draw.choice(known or _TEXTS)
        value = self._value(chosen.message_type.fields_by_name["value"])
        size = len(str(key).encode()) + len(str(value).encode())
        values[key] = value
        for number in range(min(count, BIG // (size + 16)) - 1):
            values[f"{key}{number}"] = value

    def _fill(self, message: Message, depth: int) -> None:
        """Most of its fields, fair or odd."""
        holder: Any = message
        holder.SetInParent()
        fields: Any = message.DESCRIPTOR.fields
        for each in fields:
            if self._draw.random() < 0.3 or (each.type == FieldDescriptor.TYPE_MESSAGE and not depth):
                continue
            if each.type == FieldDescriptor.TYPE_MESSAGE and not is_repeated(each):
                self._fill(getattr(holder, each.name), depth - 1)
            elif not is_repeated(each):
                setattr(holder, each.name, self._value(each))
            elif each.type != FieldDescriptor.TYPE_MESSAGE:
                getattr(holder, each.name).append(self._value(each))
            elif not is_map(each):
                self._fill(getattr(holder, each.name).add(), depth - 1)

    def _value(self, wanted: Any) -> Any:
        if wanted.type == FieldDescriptor.TYPE_BOOL:
            return self._draw.random() < 0.6
        if wanted.type == FieldDescriptor.TYPE_ENUM:
            return self._draw.choice((*wanted.enum_type.values_by_number, 99, -1))
        if wanted.type == FieldDescriptor.TYPE_BYTES:
            return self._draw.choice((b"", b"text", b"a\0b", b"\xff\xfe", b"x" * 200_000, "é".encode()))
        if wanted.type == FieldDescriptor.TYPE_STRING:
            pool = self._by_name.get(wanted.name)
            return self._draw.choice(pool if pool and self._draw.random() < 0.7 else _TEXTS)
        if wanted.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return self._draw.choice((0.0, -1.0, 1e300, float("nan"), float("inf")))
        low, high = _bounds(wanted)
        edges = [value for bits in _EDGES for value in (1 << bits, (1 << bits) - 1, -(1 << bits))]
        return self._draw.choice([value for value in (*_NUMBERS, *edges) if low <= value <= high])

    def _pools(self) -> dict[str, Sequence[str]]:
        places = self._haven.places()
        return {
            "host_path": (*places, *DEVICES, "", "relative"),
            "path": (*places, "", "relative"),
            "localhost_ref": places,
            "seccomp_profile_path": ("runtime/default", "unconfined", *(f"localhost/{p}" for p in places)),
            "container_path": (
                "/mnt",
                "/",
                "",
                "/proc",
                "/dev",
                "/etc/hosts",
                "/bin",
                "/bin/sh",
                "/a/../b",
                "mnt",
            ),
            "command": ("sleep", "true", "no-such", "/bin", "/", "../../x", "/bin/busybox/x"),
            "working_dir": ("/tmp", "/bin/busybox", "/dev/null", "/proc/nox", "/proc/self", "/new/one"),
            "masked_paths": ("/proc/kcore", "/mnt", "/no/such", "/bin/sh", "/bin/sh/x", "/"),
            "readonly_paths": ("/proc/sys", "/mnt", "/no/such", "/bin/sh", "/bin/sh/x", "/"),
            "log_path": ("0.log", "a/b.log", "d/" * 40 + "0.log", "..", "./", "x" * 250),
            "log_directory": (f"{self._haven.logs}/other", ""),
            "cgroup_parent": (
                "fuzz",
                "a/b",
                "/x/",
                "x" * 300,
                "a.slice",
                "-.slice",
                "tasks",
                "cpu.max",
                "a\nb",
            ),
            "container_id": ("", "a", "f" * 64, "g", "x" * 200),
            "pod_sandbox_id": ("", "a", "f" * 64, "g", "x" * 200),
            "target_id": ("", "a", "f" * 64),
            "host_ip": _ADDRESSES,
            "pod_cidr": _CIDRS,
            "servers": (*_ADDRESSES, "ns.example"),
            "mount_options": _MOUNT_OPTIONS,
            "page_size": ("2MB", "1GB", "64KB", "3MB", "2mb", ""),
            "cpuset_cpus": ("0", "0-1", "0-4095", "4095", "1-0", ",", "0,,1", "a", "0" * 300),
            "cpuset_mems": ("0", "0-1", "1023", "9999999999", "a"),
            "permissions": ("r", "rwm", "mrw", "x", "rr", ""),
            "runtime_handler": ("", "crun", "runc", "no-such", "A"),
            "image": ("busybox:test", "localhost:1/x:1", "x@sha256:" + "0" * 64, "X", "a" * 5000, ""),
            "images": ("busybox:test", "localhost:1/x:1", "X", ""),
            "names": ("localhost:1/x:1", "localhost:1/y:2", "X", ""),
            "format": ("oci", "docker", "tar"),
            "targets": (
                "tcp:80",
                "udp:53",
                "unix:c:/s",
                "tcp:0",
                "tcp:99999",
                "sctp:1",
                "unix::/",
                "unix:a:b",
            ),
            "hostname": ("web", "web.", "a.b.c", "-", "a..b", "x" * 65),
            "add_capabilities": _CAPABILITIES,
            "drop_capabilities": _CAPABILITIES,
            "add_ambient_capabilities": _CAPABILITIES,
            "run_as_username": ("root", "nobody", "no-such", "0", "0:0", "4294967295", "a:b:c"),
        }


def _bounds(wanted: Any) -> tuple[int, int]:
    kinds = FieldDescriptor
    if wanted.type in (kinds.TYPE_UINT32, kinds.TYPE_FIXED32):
        return 0, (1 << 32) - 1
    if wanted.type in (kinds.TYPE_UINT64, kinds.TYPE_FIXED64):
        return 0, (1 << 64) - 1
    if wanted.type in (kinds.TYPE_INT64, kinds.TYPE_SINT64, kinds.TYPE_SFIXED64):
        return -(1 << 63), (1 << 63) - 1
    return -(1 << 31), (1 << 31) - 1


def _tell_apart(message: Message, number: int) -> None:
    """A list of equal things would be refused for being that, whatever its length."""
    holder: Any = message
    for name in ("container_path", "key", "page_size"):
        if name in message.DESCRIPTOR.fields_by_name:
            setattr(holder, name, f"{getattr(holder, name)}{number}"[-4000:])
