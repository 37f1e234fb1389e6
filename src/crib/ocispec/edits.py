"""Edits put into a spec, in their order: CDI devices, hook files, then those of the request."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from crib.model.edits import AddedHook, AddedMount, ContainerEdits
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

_STAGES: Mapping[str, str] = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}
"""Stage as the specification calls it, to the field of `oci.Hooks`."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def edited(inputs: ContainerInputs, spec: oci.Spec) -> oci.Spec:
    """The authors' spec with all edits of the inputs. Each sees what those before it have made.

    The conditions of a hook file are held against the spec with its devices; a plugin comes last, as it is
    shown all of the container.
    """
    for edits in inputs.cdi:
        spec = with_edits(spec, edits)
    for rule in inputs.hook_rules:
        if rule.meets(spec, bind_mounts=bool(inputs.config.mounts)):
            spec = with_edits(spec, rule.edits)
    for edits in inputs.edits:
        spec = with_edits(spec, edits)
    return spec


def with_edits(spec: oci.Spec, edits: ContainerEdits) -> oci.Spec:
    """The spec with the edits: a device, mount or variable takes the place of its namesake."""
    return msgspec.structs.replace(
        spec,
        process=_process(spec.process, edits),
        mounts=_mounts(spec.mounts, edits),
        hooks=_hooks(spec.hooks, edits),
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
    added = {mount.destination: _mount(mount) for mount in edits.mounts}
    kept = [mount for mount in before if mount.destination not in added]
    # Parents before what is below; stable, so the order of equals is kept.
    return tuple(sorted([*kept, *added.values()], key=lambda mount: mount.destination.rstrip("/").count("/")))


def _mount(mount: AddedMount) -> oci.Mount:
    return oci.Mount(
        destination=mount.destination, type=mount.type, source=mount.source, options=mount.options
    )


def _hooks(before: oci.Hooks | None, edits: ContainerEdits) -> oci.Hooks | None:
    hooks = before
    for hook in edits.hooks:
        hooks = hooks or oci.Hooks()
        stage = _STAGES[hook.stage]
        hooks = msgspec.structs.replace(hooks, **{stage: (*getattr(hooks, stage), _hook(hook))})
    return hooks


def _hook(hook: AddedHook) -> oci.Hook:
    """A hook without an environment of its own does not get the container's."""
    return oci.Hook(hook.path, hook.args, hook.env or (_PATH,), hook.timeout)


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
