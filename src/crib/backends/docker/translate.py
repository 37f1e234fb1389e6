"""A container's OCI spec in the words of the Engine: what ContainerCreate is sent. Pure.

The Engine makes a spec of its own. Each field of ours is carried over by what it has for it, or is what it
does anyhow, or is refused by name: nothing is left out without a word (docs/docker.md has the table).

Limits are none of it: they are written to the container's cgroup before its first process is there. So all
that a cgroup can limit is limited, also by an Engine that has no word for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from crib.backends.docker.mounts import engine_mounts
from crib.backends.docker.refusals import refuse_unknown
from crib.model.errors import InvalidRequest
from crib.wire import oci_runtime as oci

NEW_CAPABILITIES = frozenset(("BPF", "CHECKPOINT_RESTORE", "PERFMON"))
"""Engines before 23.0 (API 1.42) know none of these; `ALL` goes without them there."""
_NO_LIMIT = (1 << 64) - 1
_DEFAULT_ADAPTED = ("c", "b")


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """A device node: `node` is one of ours on the host, which has the mode and owner that are wanted."""

    node: str
    path: str
    """In the container."""
    permissions: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """What a container of the Engine is made from, beside its spec."""

    spec: oci.Spec
    image: str
    """The Engine's id of the image with the layers, whose config says nothing."""
    joined: Mapping[str, str]
    """What the Engine calls the namespaces that are joined, by their paths; `container:NAME`."""
    cgroup_parent: str
    labels: Mapping[str, str]
    api: tuple[int, int]
    log: Mapping[str, Any]
    privileged: bool = False
    capabilities: Sequence[str] = ()
    """Those that the client has named, without CAP_."""
    stdin: bool = False
    stdin_once: bool = False
    bare_network: bool = False
    """It has a network of its own that the Engine does not touch: a fresh namespace, and no more."""
    hostname: str = ""
    """Where it has a UTS namespace of its own, and joins no network."""
    devices: Sequence[EngineDevice] = ()
    binds: Mapping[str, str] = field(default_factory=dict)
    """By destination: a mount of ours that has the flags which the Engine has no word for."""
    pod_files: str = ""
    """Directory whose mounts have the flags of the pod's files."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Of the network that it joins. The Engine writes its own defaults there with each container."""


def engine_container(plan: EnginePlan) -> dict[str, Any]:
    """The body of ContainerCreate. InvalidRequest, naming the CRI field, for what the Engine cannot do."""
    spec, process = plan.spec, plan.spec.process
    refuse_unknown(spec)
    body = {
        "Image": plan.image,
        "Entrypoint": list(process.args[:1]),
        "Cmd": list(process.args[1:]),
        "Env": list(process.env),
        "WorkingDir": process.cwd,
        "User": f"{process.user.uid}:{process.user.gid}",
        "Tty": process.terminal,
        "OpenStdin": plan.stdin,
        "StdinOnce": plan.stdin_once,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Labels": dict(plan.labels),
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(plan),
    }
    if plan.bare_network:
        body["NetworkDisabled"] = True
    if plan.hostname:
        body["Hostname"] = plan.hostname
    return body


def _host_config(plan: EnginePlan) -> dict[str, Any]:
    spec, process = plan.spec, plan.spec.process
    binds, tmpfs = engine_mounts(plan.spec.mounts, plan.binds, plan.pod_files, plan.api)
    config: dict[str, Any] = {
        **_modes(spec.linux.namespaces, plan.joined),
        "CgroupParent": plan.cgroup_parent,
        "GroupAdd": [str(gid) for gid in process.user.additional_gids],
        "Mounts": binds,
        "Tmpfs": tmpfs,
        "OomScoreAdj": process.oom_score_adj or 0,
        "Privileged": plan.privileged,
        "ReadonlyRootfs": spec.root.readonly,
        "SecurityOpt": list(_security(spec, plan.privileged)),
        "Ulimits": [_ulimit(limit) for limit in process.rlimits],
        "Devices": [_device(device) for device in plan.devices],
        "Sysctls": {**plan.sysctls, **spec.linux.sysctl},
        "LogConfig": dict(plan.log),
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "Init": False,
        "UsernsMode": "host",
    }
    if not plan.privileged:
        config |= {
            "CapDrop": ["ALL"],
            "CapAdd": _capabilities(plan),
            "MaskedPaths": list(spec.linux.masked_paths),
            "ReadonlyPaths": list(spec.linux.readonly_paths),
            "DeviceCgroupRules": list(_device_rules(spec)),
        }
    if plan.api >= (1, 43) and spec.annotations:
        config["Annotations"] = dict(spec.annotations)
    return config


def _capabilities(plan: EnginePlan) -> list[str]:
    held = plan.spec.process.capabilities or oci.Capabilities()
    unknown = NEW_CAPABILITIES if plan.api < (1, 42) else frozenset()
    if named := unknown.intersection(name.upper().removeprefix("CAP_") for name in plan.capabilities):
        raise InvalidRequest(
            f"Docker's Engine cannot do this: before 23.0 it does not know {', '.join(sorted(named))}",
            field="linux.security_context.capabilities.add_capabilities",
        )
    names = (name.removeprefix("CAP_") for name in held.bounding)
    return [name for name in names if name not in unknown]


def _modes(namespaces: Sequence[oci.Namespace], joined: Mapping[str, str]) -> dict[str, str]:
    """Whose namespaces. One that is not in the spec is the host's. UTS follows the network in the Engine:
    who joins a container's network gets its host name, in a namespace of its own.
    """
    by_type = {one.type: one for one in namespaces}

    def mode(kind: str, own: str) -> str:
        found = by_type.get(kind)
        if found is None:
            return "host"
        return joined[found.path] if found.path else own

    return {
        "NetworkMode": mode("network", "none"),
        "IpcMode": mode("ipc", "shareable"),
        "PidMode": mode("pid", ""),
        "UTSMode": "" if "uts" in by_type else "host",
        "CgroupnsMode": mode("cgroup", "private"),
    }


def _security(spec: oci.Spec, privileged: bool) -> Iterator[str]:
    process, profile = spec.process, spec.linux.seccomp
    if process.no_new_privileges:
        yield "no-new-privileges:true"
    if profile is not None:
        yield f"seccomp={oci.encode(profile).decode()}"
    elif not privileged:
        yield "seccomp=unconfined"
    if process.apparmor_profile:
        yield f"apparmor={process.apparmor_profile}"
    if process.selinux_label:
        user, role, kind, level = (*process.selinux_label.split(":", 3), "", "", "")[:4]
        for name, value in (("user", user), ("role", role), ("type", kind), ("level", level)):
            if value:
                yield f"label={name}:{value}"


def _ulimit(limit: oci.Rlimit) -> dict[str, Any]:
    def number(value: int) -> int:
        return -1 if value >= _NO_LIMIT >> 1 else value

    name = limit.type.removeprefix("RLIMIT_").lower()
    return {"Name": name, "Soft": number(limit.soft), "Hard": number(limit.hard)}


def _device(device: EngineDevice) -> dict[str, str]:
    return {
        "PathOnHost": device.node,
        "PathInContainer": device.path,
        "CgroupPermissions": device.permissions or "rwm",
    }


def _device_rules(spec: oci.Spec) -> Iterator[str]:
    """What may be opened. The Engine adds those of its own defaults, which ours have too."""
    limits = spec.linux.resources or oci.Resources()
    for rule in limits.devices:
        if rule.allow and rule.type in _DEFAULT_ADAPTED:
            major = "*" if rule.major is None else rule.major
            minor = "*" if rule.minor is None else rule.minor
            yield f"{rule.type} {major}:{minor} {rule.access}"


def permissions_of(spec: oci.Spec, device: oci.Device) -> str:
    """What the rules of the spec allow with a device: letters of `rwm`."""
    limits = spec.linux.resources or oci.Resources()
    found = {
        letter
        for rule in limits.devices
        if rule.allow
        and rule.type in ("a", device.type)
        and rule.major in (None, device.major)
        and rule.minor in (None, device.minor)
        for letter in rule.access
    }
    return "".join(letter for letter in "rwm" if letter in found)


def plain_limits(spec: oci.Spec) -> oci.Resources:
    """Those that are files of the cgroup: without devices, which the Engine writes."""
    return msgspec.structs.replace(spec.linux.resources or oci.Resources(), devices=())
