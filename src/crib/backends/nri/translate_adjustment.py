"""What a plugin wants of a container that is being created (ContainerAdjustment), as edits."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from crib.backends.nri.translate_checks import (
    MAX_PATH,
    Misfit,
    at,
    each,
    marked,
    matching,
    name,
    number,
    once,
    pairs,
    path,
    text,
    value_of,
)
from crib.backends.nri.translate_limits import (
    device_rule,
    io_priority,
    memory_policy,
    rdt_change,
    resource_change,
    scheduler,
    seccomp_profile,
)
from crib.model.edits import (
    AddedDevice,
    AddedHook,
    AddedMount,
    ContainerEdits,
    Pairs,
    Removals,
    SetNamespace,
    SetRlimit,
)
from crib.stubs.nri.v1alpha1 import api_pb2 as pb

ORIGIN = "NRI "
"""Begins the origin of edits; the plugin follows."""
_OURS = "io.kubernetes.cri."
"""Begins the annotations that say whose container it is: runtimes group containers by them."""
_STAGES = {
    "prestart": "prestart",
    "create_runtime": "createRuntime",
    "create_container": "createContainer",
    "start_container": "startContainer",
    "poststart": "poststart",
    "poststop": "poststop",
}
_NAMESPACES = frozenset(("cgroup", "ipc", "network", "pid", "time", "uts"))
_FIXED = frozenset(("mount", "user"))
"""Without its own the root would be mounted on the host; the pod's user namespace fits its volumes."""
_RLIMIT = re.compile(r"RLIMIT_[A-Z]{1,20}")
_SYSCTL = re.compile(r"[a-zA-Z0-9_-]+([./][a-zA-Z0-9_*:@-]+)+")
"""Dots become slashes below /proc/sys: none may lead upwards."""
_INTERFACE = re.compile(r"[^/\s:]{1,15}")
"""As the kernel has it (dev_valid_name)."""
_VARIABLE = re.compile(r"[^=\0]+")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\@-]+\.slice:[A-Za-z0-9_.-]*:[A-Za-z0-9_.\\@-]+")
_U32 = (1 << 32) - 1
_MAX_TIMEOUT = 86400
"""Seconds of a hook."""


def container_edits(plugin: str, adjust: pb.ContainerAdjustment) -> ContainerEdits:
    """The edits, with the origin `NRI 10-name`; Misfit."""
    with at("adjust"):
        linux = adjust.linux
        annotations_gone, annotations = pairs("annotations", adjust.annotations, _annotation)
        env_gone, env = _env(adjust)
        mounts_gone, mounts = _mounts(adjust)
        args = each("args", adjust.args, text, 1 << 16)
        with at("linux"):
            devices_gone, devices = _devices(linux)
            types_gone, namespaces = _namespaces(linux)
            sysctls_gone, sysctls = pairs("sysctl", linux.sysctl, _sysctl)
            interfaces_gone, interfaces = _interfaces(linux)
        removed = Removals(
            annotations=annotations_gone,
            mounts=mounts_gone,
            env=env_gone,
            devices=devices_gone,
            namespaces=types_gone,
            sysctls=sysctls_gone,
            net_devices=interfaces_gone,
            args=bool(args) and not args[0],
            rdt=linux.rdt.remove,
        )
        edits = ContainerEdits(
            origin=f"{ORIGIN}{plugin}",
            env=env,
            devices=devices,
            mounts=mounts,
            hooks=_hooks(adjust.hooks),
            removed=removed,
            annotations=annotations,
            args=_command(args[1:] if removed.args else args),
            rlimits=_rlimits(adjust),
            cdi_devices=_cdi(adjust),
            sysctls=sysctls,
            namespaces=namespaces,
            net_devices=interfaces,
        )
        with at("linux"):
            return _with_settings(edits, linux)


def _with_settings(edits: ContainerEdits, linux: pb.LinuxContainerAdjustment) -> ContainerEdits:
    """With the fields that a plugin sets as a whole, or not at all."""
    rules = each("resources.devices", linux.resources.devices, device_rule)
    score = value_of(linux, "oom_score_adj")
    edits = replace(
        edits,
        resources=resource_change(linux.resources, "resources"),
        device_rules=rules,
        cgroups_path=_cgroups_path(linux.cgroups_path),
        oom_score_adj=None if score is None else number(score, -1000, 1000, "oom_score_adj"),
    )
    with at("rdt"):
        edits = replace(edits, rdt=rdt_change(linux.rdt))
    if linux.HasField("io_priority"):
        with at("io_priority"):
            edits = replace(edits, io_priority=io_priority(linux.io_priority))
    if linux.HasField("scheduler"):
        with at("scheduler"):
            edits = replace(edits, scheduler=scheduler(linux.scheduler))
    if linux.HasField("seccomp_policy"):
        with at("seccomp_policy"):
            edits = replace(edits, seccomp=seccomp_profile(linux.seccomp_policy))
    if linux.HasField("memory_policy"):
        with at("memory_policy"):
            edits = replace(edits, memory_policy=memory_policy(linux.memory_policy))
    return edits


def _annotation(key: str) -> str:
    if key.startswith(_OURS):
        raise Misfit(f"{key[:100]!r} says whose container it is, and cannot be changed")
    return name(key, most=1024)


def _env(adjust: pb.ContainerAdjustment) -> tuple[tuple[str, ...], Pairs]:
    gone, kept = marked("env", adjust.env, lambda one: one.key)
    variables = each("env", kept, lambda one: (_variable(one.key), text(one.value)))
    once("env", [key for key, _ in variables])
    return each("env", gone, _variable), variables


def _variable(key: str) -> str:
    return matching(text(key), _VARIABLE, "the name of a variable")


def _mounts(adjust: pb.ContainerAdjustment) -> tuple[tuple[str, ...], tuple[AddedMount, ...]]:
    gone, kept = marked("mounts", adjust.mounts, lambda one: one.destination)
    mounts = each("mounts", kept, _mount)
    once("mounts", [one.destination for one in mounts])
    return each("mounts", gone, path), mounts


def _mount(mount: pb.Mount) -> AddedMount:
    destination = path(mount.destination, "destination")
    if destination == "/":
        raise Misfit("the root cannot be mounted over", "destination")
    options = each("options", mount.options, text)
    kind = text(mount.type, "type") or "bind"
    if not mount.type and not {"bind", "rbind"} & set(options):
        options = ("rbind", *options)
    source = text(mount.source, "source", MAX_PATH)
    if kind == "bind":
        source = path(mount.source, "source")
    return AddedMount(destination, source, kind, options)


def _command(args: tuple[str, ...]) -> tuple[str, ...]:
    if args and not args[0]:
        raise Misfit("the program is empty", "args")
    return args


def _hooks(hooks: pb.Hooks) -> tuple[AddedHook, ...]:
    with at("hooks"):
        return tuple(
            hook
            for field, stage in _STAGES.items()
            for hook in each(field, getattr(hooks, field), partial(_hook, stage))
        )


def _hook(stage: str, hook: pb.Hook) -> AddedHook:
    timeout = value_of(hook, "timeout")
    return AddedHook(
        stage=stage,
        path=path(hook.path, "path"),
        args=each("args", hook.args, text),
        env=each("env", hook.env, text),
        timeout=None if timeout is None else number(timeout, 1, _MAX_TIMEOUT, "timeout"),
    )


def _rlimits(adjust: pb.ContainerAdjustment) -> tuple[SetRlimit, ...]:
    limits = each("rlimits", adjust.rlimits, _rlimit)
    once("rlimits", [one.type for one in limits])
    return limits


def _rlimit(limit: pb.POSIXRlimit) -> SetRlimit:
    kind = matching(limit.type, _RLIMIT, "a limit such as RLIMIT_NOFILE", "type")
    return SetRlimit(kind, limit.hard, number(limit.soft, 0, limit.hard, "soft"))


def _cdi(adjust: pb.ContainerAdjustment) -> tuple[str, ...]:
    names = each("CDI_devices", adjust.CDI_devices, lambda one: name(one.name, "name"))
    once("CDI_devices", names)
    return names


def _devices(linux: pb.LinuxContainerAdjustment) -> tuple[tuple[str, ...], tuple[AddedDevice, ...]]:
    gone, kept = marked("devices", linux.devices, lambda one: one.path)
    devices = each("devices", kept, _device)
    once("devices", [one.path for one in devices])
    return each("devices", gone, path), devices


def _device(device: pb.LinuxDevice) -> AddedDevice:
    """Nobody's owner is root, and a block device may be made again, as in NRI."""
    if device.type not in ("b", "c", "u", "p"):
        raise Misfit(f"{device.type[:10]!r} is not b, c, u or p", "type")
    mode, uid, gid = (value_of(device, field) for field in ("file_mode", "uid", "gid"))
    return AddedDevice(
        path=path(device.path, "path"),
        kind=device.type,
        major=number(device.major, 0, _U32, "major"),
        minor=number(device.minor, 0, _U32, "minor"),
        permissions="rwm" if device.type == "b" else "rw",
        mode=None if mode is None else mode & 0o7777,
        uid=uid or 0,
        gid=gid or 0,
    )


def _namespaces(linux: pb.LinuxContainerAdjustment) -> tuple[tuple[str, ...], tuple[SetNamespace, ...]]:
    gone, kept = marked("namespaces", linux.namespaces, lambda one: one.type)
    namespaces = each("namespaces", kept, _namespace)
    once("namespaces", [one.type for one in namespaces])
    return each("namespaces", gone, _namespace_type), namespaces


def _namespace(namespace: pb.LinuxNamespace) -> SetNamespace:
    return SetNamespace(
        _namespace_type(namespace.type), path(namespace.path, "path") if namespace.path else ""
    )


def _namespace_type(kind: str) -> str:
    if kind in _FIXED:
        raise Misfit(f"{kind} cannot be changed", "type")
    if kind not in _NAMESPACES:
        raise Misfit(f"{kind[:20]!r} is none of {', '.join(sorted(_NAMESPACES))}", "type")
    return kind


def _sysctl(key: str) -> str:
    if ".." in key:
        raise Misfit(f"{key[:100]!r} leads upwards")
    return matching(key, _SYSCTL, "a sysctl such as net.ipv4.ip_forward")


def _interfaces(linux: pb.LinuxContainerAdjustment) -> tuple[tuple[str, ...], Pairs]:
    names = {host: device.name for host, device in linux.net_devices.items()}
    gone, interfaces = pairs("net_devices", names, _interface)
    for _, inside in interfaces:
        if inside:
            with at("net_devices"):
                _interface(inside)
    return gone, interfaces


def _interface(text_: str) -> str:
    if text_ in (".", ".."):
        raise Misfit(f"{text_!r} is not the name of an interface")
    return matching(text_, _INTERFACE, "the name of an interface")


def _cgroups_path(value: str) -> str:
    if not value or _SLICE.fullmatch(value):
        return value
    found = path(value, "cgroups_path")
    if found == "/":
        raise Misfit("a container cannot be in the root cgroup", "cgroups_path")
    return found
