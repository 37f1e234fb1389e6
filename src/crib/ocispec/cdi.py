"""What CDI devices change in a spec (Container Device Interface, SPEC.md, "CDI edits")."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from crib.ocispec.hooks import joined
from crib.wire import oci_runtime as oci


@dataclass(frozen=True, slots=True)
class HostNode:
    """A node of the host that a CDI device brings; `kind` is `c` or `b`."""

    path: str
    """Where it shall be in the container."""
    kind: str
    major: int
    minor: int
    permissions: str = "rwm"
    mode: int | None = None
    uid: int | None = None
    """None: the container's user, as CDI has it; so with `gid`."""
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """All that a container's CDI devices ask for together, each part in the devices' order."""

    env: tuple[tuple[str, str], ...] = ()
    devices: tuple[HostNode, ...] = ()
    mounts: tuple[oci.Mount, ...] = ()
    hooks: oci.Hooks | None = None
    groups: tuple[int, ...] = ()


def with_edits(spec: oci.Spec, edits: ContainerEdits) -> oci.Spec:
    """The spec with the edits: a later device, mount or variable takes the place of its namesake."""
    if edits == ContainerEdits():
        return spec
    return msgspec.structs.replace(
        spec,
        process=_process(spec.process, edits),
        mounts=_mounts(spec.mounts, edits),
        hooks=joined(spec.hooks, edits.hooks),
        linux=_linux(spec.linux, spec.process.user, edits),
    )


def _process(process: oci.Process, edits: ContainerEdits) -> oci.Process:
    env: dict[str, str] = {}
    for entry in process.env:
        key, _, value = entry.partition("=")
        env[key] = value
    env.update(edits.env)
    groups = tuple(dict.fromkeys((*process.user.additional_gids, *edits.groups)))
    return msgspec.structs.replace(
        process,
        env=tuple(f"{key}={value}" for key, value in env.items()),
        user=msgspec.structs.replace(process.user, additional_gids=groups),
    )


def _mounts(before: tuple[oci.Mount, ...], edits: ContainerEdits) -> tuple[oci.Mount, ...]:
    if not edits.mounts:
        return before
    added = {mount.destination: mount for mount in edits.mounts}
    kept = [mount for mount in before if mount.destination not in added]
    # Parents before what is below; stable, so the order of equals is kept.
    return tuple(sorted([*kept, *added.values()], key=lambda mount: mount.destination.rstrip("/").count("/")))


def _linux(linux: oci.Linux, user: oci.User, edits: ContainerEdits) -> oci.Linux:
    if not edits.devices:
        return linux
    nodes = {node.path: node for node in linux.devices}
    rules = list(linux.resources.devices) if linux.resources is not None else []
    for device in edits.devices:
        nodes[device.path] = oci.Device(
            path=device.path,
            type=device.kind,
            major=device.major,
            minor=device.minor,
            file_mode=device.mode,
            uid=user.uid if device.uid is None else device.uid,
            gid=user.gid if device.gid is None else device.gid,
        )
        rules.append(
            oci.DeviceRule(
                allow=True,
                type=device.kind,
                major=device.major,
                minor=device.minor,
                access=device.permissions,
            )
        )
    resources = msgspec.structs.replace(linux.resources or oci.Resources(), devices=tuple(rules))
    return msgspec.structs.replace(linux, devices=tuple(nodes.values()), resources=resources)
