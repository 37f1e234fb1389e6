"""What validators are shown: all that plugins want of a container, and which of them wants what."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import replace
from typing import TypeVar

from crib.backends.nri.translate import change_message, container_message, pod_message, update_message
from crib.backends.nri.translate_parts import (
    device_message,
    device_rule_message,
    hooks_message,
    io_priority_message,
    mount_message,
    namespace_messages,
    optional,
    rlimit_message,
    scheduler_message,
    seccomp_message,
)
from crib.model.edits import ContainerEdits, RdtChange, Removals
from crib.model.plugins import ShownContainer, ShownPod
from crib.ocispec.adjust import Answers
from crib.ocispec.adjust_owners import Field, Owners
from crib.ocispec.edits import with_edits
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.wire import oci_runtime as oci

_MARK = "-"
_COMPOUND = frozenset(
    (
        Field.Annotations,
        Field.Mounts,
        Field.Devices,
        Field.CdiDevices,
        Field.Env,
        Field.HugepageLimits,
        Field.CgroupsUnified,
        Field.Rlimits,
        Field.Namespace,
        Field.Sysctl,
        Field.LinuxNetDevices,
    )
)
"""Fields with an owner for each key."""
_Entry = TypeVar("_Entry")
_NO_SPEC = oci.Spec("", oci.Process(oci.User(0, 0), (), ""), oci.Root(""), oci.Linux())


def validation_request(
    pod: ShownPod, container: ShownContainer, answers: Answers, plugins: Sequence[tuple[str, str]]
) -> pb.ValidateContainerAdjustmentRequest:
    """`plugins` are the indices and names of those that were asked."""
    return pb.ValidateContainerAdjustmentRequest(
        pod=pod_message(pod),
        container=container_message(container),
        adjust=adjustment_message(answers.edits),
        update=map(update_message, answers.orders.updates),
        owners=pb.OwningPlugins(
            owners={container: owners_message(owners) for container, owners in answers.owners.items()}
        ),
        plugins=[pb.PluginInstance(index=index, name=name) for index, name in plugins],
    )


def owners_message(owners: Owners) -> pb.FieldOwners:
    """Who has set something, and with a mark who has only removed it."""
    message = pb.FieldOwners()
    for claim, owner in owners.claims.items():
        text = f"{_MARK}{owner.plugin}" if owner.removed else owner.plugin
        if claim.field in _COMPOUND:
            message.compound[claim.field].owners[claim.key] = text
        else:
            message.simple[claim.field] = text
    if owners.hooks:
        message.simple[Field.OciHooks] = ",".join(owners.hooks)
    return message


def adjustment_message(edits: Sequence[ContainerEdits]) -> pb.ContainerAdjustment:
    """The edits of several plugins, one after the other, as one adjustment."""
    message = pb.ContainerAdjustment()
    for one in edits:
        _without(message, one)
        message.MergeFrom(_adjustment(one))
    return message


def _without(message: pb.ContainerAdjustment, edits: ContainerEdits) -> None:
    """What these edits take away of what was there before is no longer wanted."""
    removed, linux = edits.removed, message.linux
    _keep(message.mounts, lambda one: one.destination not in removed.mounts)
    _keep(message.env, lambda one: one.key not in removed.env)
    _keep(linux.devices, lambda one: one.path not in removed.devices)
    for texts, gone in (
        (message.annotations, removed.annotations),
        (linux.sysctl, removed.sysctls),
        (linux.net_devices, removed.net_devices),
    ):
        for key in gone:
            if key in texts:
                del texts[key]
    if edits.args:
        message.ClearField("args")
    if removed.rdt:
        linux.ClearField("rdt")


def _keep(entries: MutableSequence[_Entry], wanted: Callable[[_Entry], bool]) -> None:
    kept = [entry for entry in entries if wanted(entry)]
    del entries[:]
    entries.extend(kept)


def _adjustment(edits: ContainerEdits) -> pb.ContainerAdjustment:
    """One plugin's: what it removes and does not set again carries a mark."""
    plain = replace(edits, removed=Removals(), injected=())
    spec, removed = with_edits(_NO_SPEC, plain), edits.removed
    mounts_gone = _marks(removed.mounts, [one.destination for one in edits.mounts])
    rules = spec.linux.resources.devices[len(edits.devices) :] if spec.linux.resources is not None else ()
    adjustment = pb.ContainerAdjustment(
        annotations=_with_marks(spec.annotations, removed.annotations, ""),
        mounts=[
            *map(mount_message, spec.mounts),
            *(pb.Mount(destination=key) for key in mounts_gone),
        ],
        env=[
            *(pb.KeyValue(key=key, value=value) for key, value in edits.env),
            *(pb.KeyValue(key=key) for key in _marks(removed.env, dict(edits.env))),
        ],
        hooks=hooks_message(spec.hooks or oci.Hooks()),
        rlimits=map(rlimit_message, spec.process.rlimits),
        CDI_devices=[pb.CDIDevice(name=name) for name in edits.cdi_devices],
        args=edits.args,
        linux=_linux_adjustment(edits, spec),
    )
    adjustment.linux.resources.devices.extend(map(device_rule_message, rules))
    return adjustment


def _linux_adjustment(edits: ContainerEdits, spec: oci.Spec) -> pb.LinuxContainerAdjustment:
    linux, process, removed, policy = spec.linux, spec.process, edits.removed, edits.memory_policy
    inside = {name: pb.LinuxNetDevice(name=one.name) for name, one in linux.net_devices.items()}
    devices_gone = _marks(removed.devices, [one.path for one in edits.devices])
    types_gone = _marks(removed.namespaces, [one.type for one in edits.namespaces])
    message = pb.LinuxContainerAdjustment(
        devices=[
            *map(device_message, linux.devices),
            *(pb.LinuxDevice(path=key) for key in devices_gone),
        ],
        resources=change_message(edits.resources),
        cgroups_path=linux.cgroups_path,
        oom_score_adj=optional(pb.OptionalInt, process.oom_score_adj),
        io_priority=io_priority_message(process.io_priority),
        seccomp_policy=seccomp_message(linux.seccomp),
        namespaces=[
            *namespace_messages(linux),
            *(pb.LinuxNamespace(type=key) for key in types_gone),
        ],
        sysctl=_with_marks(linux.sysctl, removed.sysctls, ""),
        net_devices=_with_marks(inside, removed.net_devices, pb.LinuxNetDevice()),
        scheduler=scheduler_message(process.scheduler),
        memory_policy=None
        if policy is None
        else pb.LinuxMemoryPolicy(
            mode=pb.MpolMode.Value(policy.mode),
            nodes=policy.nodes,
            flags=map(pb.MpolFlag.Value, policy.flags),
        ),
    )
    if edits.rdt != RdtChange() or removed.rdt:
        message.rdt.CopyFrom(_rdt_adjustment(edits))
    return message


def _rdt_adjustment(edits: ContainerEdits) -> pb.LinuxRdt:
    change = edits.rdt
    return pb.LinuxRdt(
        clos_id=optional(pb.OptionalString, change.clos_id),
        schemata=optional(pb.OptionalRepeatedString, change.schemata),
        enable_monitoring=optional(pb.OptionalBool, change.enable_monitoring),
        remove=edits.removed.rdt and change == RdtChange(),
    )


def _marks(removed: Iterable[str], added: Container[str]) -> Iterator[str]:
    return (f"{_MARK}{key}" for key in removed if key not in added)


def _with_marks(added: Mapping[str, _Entry], removed: Iterable[str], nothing: _Entry) -> dict[str, _Entry]:
    return {**added, **dict.fromkeys(_marks(removed, added), nothing)}
