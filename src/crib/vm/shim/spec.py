"""The config.json of a container of the host becomes that of one in the guest. Pure.

Three things change. Paths of the host become paths below the share, where virtiofs has what was at them. What
the guest has by itself (network, IPC, host name, /dev/shm) is left to it. What has no meaning on another
kernel (numbers of the host's CPUs and devices, labels of its security modules) is taken out. What cannot be
is refused by name.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SHARE = "/run/crib/share"
"""Where the guest has the share."""
SHM = "/run/crib/shm"
SHARED_PIDS = "/run/crib/ns/pid"
CONTAINERS = "c"
"""Directory of the share."""
_OWN_OF_THE_GUEST = frozenset(("network", "ipc", "uts", "time"))
_DEVICES = frozenset(
    (path, number)
    for path, number in (
        *(("/dev/null", (1, 3)), ("/dev/zero", (1, 5)), ("/dev/full", (1, 7)), ("/dev/random", (1, 8))),
        *(("/dev/urandom", (1, 9)), ("/dev/tty", (5, 0)), ("/dev/console", (5, 1)), ("/dev/ptmx", (5, 2))),
        *(("/dev/fuse", (10, 229)), ("/dev/net/tun", (10, 200))),
    )
)
"""Devices that are the same on every kernel, and belong to nobody."""
_PLAIN_DEVICES = frozenset(path for path, _ in _DEVICES)
_MEMORY = ("limit", "reservation", "swap", "checkBeforeUpdate")
_CPU = ("shares", "quota", "burst", "period", "idle")
_UNIFIED = ("cpu.", "memory.", "pids.")
ROOT = "crib.vm/root"
"""Annotation by which the guest's agent makes a root (crib.vm.guest.roots)."""
_OURS = "crib.vm/"


class NotInVm(ValueError):
    """Something that a VM cannot give; the message begins with the field of the config.json."""


@dataclass(frozen=True, slots=True)
class SourceKind:
    """What is at a source, as stat(2) says."""

    mode: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What the share must have before the container is made: a path of the host at one of the share."""

    source: str
    target: str
    directory: bool
    recursive: bool = True
    read_only: bool = False
    follows: bool = False
    """Mounts that are made below the source later show."""


@dataclass(frozen=True, slots=True)
class GuestDisks:
    """Disks that the guest has for a container, by their numbers on the controller."""

    layers: tuple[int, ...] = ()
    """Of its root, the topmost first; none: its root comes by virtiofs."""
    disk: int = -1
    """With layers: what it writes to."""
    devices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Its block volumes: by their paths in the container the guest's major and minor numbers."""


@dataclass(frozen=True, slots=True)
class SpecSurroundings:
    """What the recipe must know."""

    container: str
    bundle: str
    shm: str
    """The host's path of the pod's /dev/shm."""
    shared_pid: bool
    """The pod's containers share their pids."""
    look: Callable[[str], SourceKind]
    """OSError for what is not there."""
    pid_of: Callable[[str], int]
    """The pid in the guest of another container of the pod, by its id; 0 if it does not run."""
    disks: GuestDisks = GuestDisks()


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """The guest's document, and what it needs."""

    document: Mapping[str, Any]
    shared: tuple[Shared, ...]


def directory(container: str) -> str:
    """Of a container, from the share's root."""
    return f"{CONTAINERS}/{container}"


def for_guest(spec: Mapping[str, Any], around: SpecSurroundings) -> GuestSpec:
    """NotInVm for what a VM cannot give, OSError for a source that is not there."""
    _refuse(spec)
    own, mounts = directory(around.container), []
    shared = [] if around.disks.layers else [_root(spec, around)]
    for number, mount in enumerate(spec.get("mounts") or ()):
        made = _mount(f"mounts[{number}]", mount, around, f"{own}/m/{number}")
        if isinstance(made, Shared):
            shared.append(made)
            mounts.append({**mount, "source": f"{SHARE}/{made.target}"})
        else:
            mounts.append(made)
    document = {key: value for key, value in spec.items() if key not in ("hostname", "domainname", "hooks")}
    document["root"] = {**spec["root"], "path": "rootfs"}
    document["mounts"] = mounts
    document["annotations"] = _annotations(spec.get("annotations") or {}, around.disks)
    if "process" in spec:
        document["process"] = guest_process(spec["process"])
    document["linux"] = _linux(spec.get("linux") or {}, around)
    return GuestSpec(document, tuple(shared))


def _annotations(given: Mapping[str, str], disks: GuestDisks) -> dict[str, str]:
    """The pod's author may write any; those of ours are ours."""
    made = {key: value for key, value in given.items() if not key.startswith(_OURS)}
    if disks.layers:
        made[ROOT] = json.dumps({"layers": disks.layers, "disk": disks.disk})
    return made


def guest_process(process: Mapping[str, Any]) -> dict[str, Any]:
    """The OCI's process, without labels of the host's security modules."""
    return {key: value for key, value in process.items() if key not in ("apparmorProfile", "selinuxLabel")}


def guest_resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The OCI's resources that mean the same in the guest, whose control groups have version 2."""
    made: dict[str, Any] = {}
    for name, kept in (("memory", _MEMORY), ("cpu", _CPU)):
        if part := {key: value for key, value in (resources.get(name) or {}).items() if key in kept}:
            made[name] = part
    if resources.get("pids"):
        made["pids"] = resources["pids"]
    if unified := {k: v for k, v in (resources.get("unified") or {}).items() if k.startswith(_UNIFIED)}:
        made["unified"] = unified
    if resources.get("devices"):
        made["devices"] = resources["devices"]
    return made


def _refuse(spec: Mapping[str, Any]) -> None:
    linux = spec.get("linux") or {}
    if hooks := [name for name, listed in (spec.get("hooks") or {}).items() if listed]:
        raise NotInVm(f"hooks.{hooks[0]}: programs of the host cannot run in a VM")
    if linux.get("uidMappings") or linux.get("gidMappings"):
        raise NotInVm("linux.uidMappings: a VM has its own users already")
    if (linux.get("seccomp") or {}).get("listenerPath"):
        raise NotInVm("linux.seccomp.listenerPath: the guest's kernel cannot notify a socket of the host")
    if not (spec.get("root") or {}).get("path"):
        raise NotInVm("root.path: must be there")


def _root(spec: Mapping[str, Any], around: SpecSurroundings) -> Shared:
    path = spec["root"]["path"]
    source = path if path.startswith("/") else f"{around.bundle}/{path}"
    return Shared(source, f"{directory(around.container)}/rootfs", directory=True)


def _mount(
    field: str, mount: Mapping[str, Any], around: SpecSurroundings, target: str
) -> Shared | dict[str, Any]:
    """What is shared for it, or the mount as the guest does it by itself."""
    options = set(mount.get("options") or ())
    if not (mount.get("type") == "bind" or options & {"bind", "rbind"}):
        return {**mount}
    source = mount.get("source", "")
    if around.shm and source == around.shm:
        return {**mount, "source": SHM}
    if source in _PLAIN_DEVICES:
        return {**mount}
    if options & {"shared", "rshared"}:
        raise NotInVm(f"{field}: Bidirectional propagation: mounts of another kernel cannot reach the host")
    if any(option.startswith(("idmap", "ridmap")) for option in options) or mount.get("uidMappings"):
        raise NotInVm(f"{field}: mounts with shifted owners cannot be shared with a VM")
    kind = stat.S_IFMT(around.look(source).mode)
    if kind == stat.S_IFSOCK:
        raise NotInVm(f"{field}: {source} is a socket of the host, which a VM cannot reach")
    if kind in (stat.S_IFBLK, stat.S_IFCHR):
        raise NotInVm(f"{field}: {source} is a device of the host, which a VM cannot reach")
    return Shared(
        source=source,
        target=target,
        directory=kind == stat.S_IFDIR,
        recursive="rbind" in options,
        read_only=bool(options & {"ro", "rro"}),
        follows=bool(options & {"slave", "rslave"}),
    )


def _linux(linux: Mapping[str, Any], around: SpecSurroundings) -> dict[str, Any]:
    out = ("cgroupsPath", "namespaces", "devices", "resources", "mountLabel", "intelRdt", "sysctl")
    made = {key: value for key, value in linux.items() if key not in (*out, "uidMappings", "gidMappings")}
    made["cgroupsPath"] = f"/crib/{around.container}"
    made["namespaces"] = _namespaces(linux.get("namespaces") or (), around)
    made["resources"] = guest_resources(linux.get("resources") or {})
    made["devices"], numbers = _devices(linux.get("devices") or (), around.disks)
    if rules := made["resources"].get("devices"):
        made["resources"]["devices"] = [_rule(rule, numbers) for rule in rules]
    return made


def _devices(asked: Any, disks: GuestDisks) -> tuple[list[dict[str, Any]], dict[Any, tuple[int, int]]]:
    """The nodes to be made, and by the numbers that block devices have on the host those of the guest."""
    made, numbers = [], {}
    for position, one in enumerate(asked):
        if (found := disks.devices.get(one.get("path"))) is not None:
            numbers[one.get("major"), one.get("minor")] = found
            made.append({**one, "major": found[0], "minor": found[1]})
        elif one.get("type") == "b":
            raise NotInVm(f"linux.devices[{position}]: {one.get('path')} was not given to the VM as a disk")
        elif _is_everywhere(one):
            made.append({**one})
    return made, numbers


def _rule(rule: Mapping[str, Any], numbers: Mapping[Any, tuple[int, int]]) -> dict[str, Any]:
    found = numbers.get((rule.get("major"), rule.get("minor"))) if rule.get("type") == "b" else None
    return {**rule} if found is None else {**rule, "major": found[0], "minor": found[1]}


def _is_everywhere(device: Mapping[str, Any]) -> bool:
    return (device.get("path"), (device.get("major"), device.get("minor"))) in _DEVICES


def _namespaces(asked: Any, around: SpecSurroundings) -> list[dict[str, str]]:
    """Network, IPC and host name are the guest's; that of control groups is always the container's own."""
    made = [{"type": "cgroup"}]
    has_pid = False
    for one in asked:
        kind, path = one["type"], one.get("path", "")
        if kind == "user":
            raise NotInVm("linux.namespaces: a user namespace of the host: a VM has its own users already")
        if kind == "pid":
            has_pid = True
            made.append(_pid_namespace(path, around))
        elif kind not in (*_OWN_OF_THE_GUEST, "cgroup"):
            made.append({"type": kind})
    if not has_pid and not around.shared_pid:
        raise NotInVm("linux.namespaces: the pids of the host (hostPID) cannot be had in a VM")
    if not has_pid:
        made.append({"type": "pid", "path": SHARED_PIDS})
    return made


def _pid_namespace(path: str, around: SpecSurroundings) -> dict[str, str]:
    """Whose it is, is the last but two words of the path: /containers/ID/ns/pid, where the kernel is not
    ours.
    """
    words = path.split("/")
    if not path or words[1:-1] == ["containers", around.container, "ns"]:
        return {"type": "pid"}
    if len(words) == 5 and words[1] == "containers" and words[3:] == ["ns", "pid"]:
        pid = around.pid_of(words[2])
        if not pid:
            raise NotInVm(f"linux.namespaces: container {words[2]}, whose pids are wanted, does not run")
        return {"type": "pid", "path": f"/proc/{pid}/ns/pid"}
    raise NotInVm(f"linux.namespaces: the pid namespace {path} is one of the host")
