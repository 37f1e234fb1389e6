"""Edits put into a spec, in their order: CDI devices, hook files, then those of the request.

Inside one of them the order is that of NRI: what is removed goes first; then come annotations, variables,
command and hooks, then what its CDI devices bring, then everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from crib.model.edits import AddedDevice, AddedHook, AddedMount, ContainerEdits
from crib.ocispec.annotations import without_filter
from crib.ocispec.edits_checks import check_edits
from crib.ocispec.edits_resources import settled, with_limits
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
_PROPAGATING = ("", "rslave", "rshared")
"""Of a root, the weakest first (kernel, sharedsubtree)."""

_Value = TypeVar("_Value")


def edited(inputs: ContainerInputs, spec: oci.Spec) -> oci.Spec:
    """The authors' spec with all edits of the inputs. Each sees what those before it have made.

    The conditions of a hook file are held against the spec with its devices; a plugin comes last, as it is
    shown all of the container. Broken, naming the origin, for what this host or the handler cannot do.
    """
    made = spec
    for edits in inputs.cdi:
        spec = _checked(spec, edits, inputs)
    for rule in inputs.hook_rules:
        if rule.meets(spec, bind_mounts=bool(inputs.config.mounts)):
            spec = _checked(spec, rule.edits, inputs)
    for edits in inputs.edits:
        spec = _checked(spec, edits, inputs)
    return settled(inputs, made, spec)


def _checked(spec: oci.Spec, edits: ContainerEdits, inputs: ContainerInputs) -> oci.Spec:
    check_edits(edits, inputs)
    return with_edits(spec, edits)


def with_edits(spec: oci.Spec, edits: ContainerEdits) -> oci.Spec:
    """The spec with the edits: a device, mount or variable takes the place of its namesake.

    Limits are as the OCI has them, whatever the host makes of them (`edits_resources.settled`).
    """
    spec = msgspec.structs.replace(
        spec,
        annotations=_annotations(spec.annotations, edits),
        process=_command(spec.process, edits),
        hooks=_hooks(spec.hooks, edits),
    )
    for injected in edits.injected:
        spec = with_edits(spec, injected)
    return msgspec.structs.replace(
        spec,
        process=_process(spec.process, edits),
        mounts=_mounts(spec.mounts, edits),
        linux=_linux(spec.linux, spec.process.user, edits),
    )


def _changed(
    before: Mapping[str, _Value], removed: tuple[str, ...], added: Mapping[str, _Value]
) -> dict[str, _Value]:
    """What is removed and set again keeps its place."""
    kept = {key: value for key, value in before.items() if key not in removed or key in added}
    return {**kept, **added}


def _annotations(before: dict[str, str], edits: ContainerEdits) -> dict[str, str]:
    if edits.seccomp is not None:
        before = without_filter(before)
    return _changed(before, edits.removed.annotations, dict(edits.annotations))


def _command(process: oci.Process, edits: ContainerEdits) -> oci.Process:
    env: dict[str, str] = {}
    for entry in process.env:
        key, _, value = entry.partition("=")
        env[key] = value
    env = _changed(env, edits.removed.env, dict(edits.env))
    return msgspec.structs.replace(
        process, env=tuple(f"{key}={value}" for key, value in env.items()), args=edits.args or process.args
    )


def _process(process: oci.Process, edits: ContainerEdits) -> oci.Process:
    groups = tuple(dict.fromkeys((*process.user.additional_gids, *edits.groups)))
    limits = {limit.type: limit for limit in process.rlimits}
    limits |= {limit.type: oci.Rlimit(limit.type, limit.hard, limit.soft) for limit in edits.rlimits}
    oom = edits.oom_score_adj
    scheduler, priority = edits.scheduler, edits.io_priority
    return msgspec.structs.replace(
        process,
        user=msgspec.structs.replace(process.user, additional_gids=groups),
        rlimits=tuple(limits.values()),
        oom_score_adj=process.oom_score_adj if oom is None else oom,
        scheduler=process.scheduler if scheduler is None else _scheduler(edits),
        io_priority=process.io_priority if priority is None else _io_priority(edits),
    )


def _scheduler(edits: ContainerEdits) -> oci.Scheduler | None:
    asked = edits.scheduler
    if asked is None or not asked.policy:
        return None
    return oci.Scheduler(
        policy=asked.policy,
        nice=asked.nice,
        priority=asked.priority,
        flags=asked.flags,
        runtime=asked.runtime,
        deadline=asked.deadline,
        period=asked.period,
    )


def _io_priority(edits: ContainerEdits) -> oci.IoPriority | None:
    asked = edits.io_priority
    return None if asked is None or not asked.class_ else oci.IoPriority(asked.class_, asked.priority)


def _mounts(before: tuple[oci.Mount, ...], edits: ContainerEdits) -> tuple[oci.Mount, ...]:
    if not edits.mounts and not edits.removed.mounts:
        return before
    added = {mount.destination: _mount(mount) for mount in edits.mounts}
    gone = {destination.rstrip("/") for destination in (*edits.removed.mounts, *added)}
    kept = [mount for mount in before if mount.destination.rstrip("/") not in gone]
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
    removed, policy = edits.removed, edits.memory_policy
    namespaces = {one.type: one for one in linux.namespaces}
    added = {one.type: oci.Namespace(one.type, one.path) for one in edits.namespaces}
    interfaces = {name: oci.NetDevice(inside or name) for name, inside in edits.net_devices}
    linux = msgspec.structs.replace(
        linux,
        cgroups_path=edits.cgroups_path or linux.cgroups_path,
        seccomp=linux.seccomp if edits.seccomp is None else oci.decode_seccomp(edits.seccomp),
        namespaces=tuple(_changed(namespaces, removed.namespaces, added).values()),
        sysctl=_changed(linux.sysctl, removed.sysctls, dict(edits.sysctls)),
        net_devices=_changed(linux.net_devices, removed.net_devices, interfaces),
        intel_rdt=_rdt(linux.intel_rdt, edits),
        rootfs_propagation=_propagation(linux.rootfs_propagation, edits.mounts),
    )
    if policy is not None:
        linux = msgspec.structs.replace(
            linux, memory_policy=oci.MemoryPolicy(policy.mode, policy.nodes, policy.flags)
        )
    if edits.resources:
        limits = with_limits(linux.resources or oci.Resources(), edits.resources)
        linux = msgspec.structs.replace(linux, resources=limits)
    return _with_devices(linux, user, edits)


def _propagation(before: str, mounts: tuple[AddedMount, ...]) -> str:
    asked = {option for mount in mounts for option in mount.options}
    found = [level for level in _PROPAGATING if level == before or level in asked]
    return found[-1] if found else before


def _rdt(before: oci.IntelRdt | None, edits: ContainerEdits) -> oci.IntelRdt | None:
    class_, change = edits.resources.rdt_class, edits.rdt
    rdt = before
    if class_ is not None:
        rdt = oci.IntelRdt(clos_id=class_) if class_ else None
    if edits.removed.rdt:
        rdt = None
    for name in ("clos_id", "schemata", "enable_monitoring"):
        value = getattr(change, name)
        if value is not None:
            rdt = msgspec.structs.replace(rdt or oci.IntelRdt(), **{name: value})
    return rdt


def _with_devices(linux: oci.Linux, user: oci.User, edits: ContainerEdits) -> oci.Linux:
    if not (edits.devices or edits.removed.devices or edits.device_rules):
        return linux
    nodes = {node.path: node for node in linux.devices}
    rules = list(linux.resources.devices) if linux.resources is not None else []
    taken = [nodes.pop(path) for path in edits.removed.devices if path in nodes]
    rules = [rule for rule in rules if not any(_is_for(rule, node) for node in taken)]
    for device in edits.devices:
        nodes[device.path] = _node(device, user)
        rules.append(
            oci.DeviceRule(
                allow=True,
                type=device.kind,
                major=device.major,
                minor=device.minor,
                access=device.permissions,
            )
        )
    rules += [
        oci.DeviceRule(
            allow=rule.allow, type=rule.kind, major=rule.major, minor=rule.minor, access=rule.access
        )
        for rule in edits.device_rules
    ]
    resources = msgspec.structs.replace(linux.resources or oci.Resources(), devices=tuple(rules))
    return msgspec.structs.replace(linux, devices=tuple(nodes.values()), resources=resources)


def _is_for(rule: oci.DeviceRule, node: oci.Device) -> bool:
    """Whether the rule lets the container use this device and no other."""
    return rule.allow and (rule.type, rule.major, rule.minor) == (node.type, node.major, node.minor)


def _node(device: AddedDevice, user: oci.User) -> oci.Device:
    return oci.Device(
        path=device.path,
        type=device.kind,
        major=device.major,
        minor=device.minor,
        file_mode=device.mode,
        uid=user.uid if device.uid is None else device.uid,
        gid=user.gid if device.gid is None else device.gid,
    )
