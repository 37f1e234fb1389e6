"""Volumes: what a client wants them to be, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from crib.api.translate import checks, limits, names
from crib.engine.volumes.making import Created, VolumeOrder
from crib.engine.volumes.publishing import Published, WantedVolume
from crib.engine.volumes.shelf import DEFAULT_NAMESPACE
from crib.engine.volumes.upkeep import Pruned
from crib.engine.volumes.verbs import VolumeFilter
from crib.model.volumes import (
    MAX_ENTRIES,
    MAX_TEXT,
    MAX_VOLUMES,
    MAX_WANTED,
    AccessMode,
    PodOfUse,
    Reclaim,
    SnapshotRecord,
    VolumeName,
    VolumeRecord,
    VolumeSpec,
    VolumeUsage,
    VolumeUse,
)
from crib.stubs.node.v1 import node_pb2 as pb

W = TypeVar("W", AccessMode, Reclaim)

MAX_BYTES = 1 << 62
"""Of a capacity."""
ONLY_READ_WRITE_ONCE = (AccessMode.READ_WRITE_ONCE,)


class PublishOrder(NamedTuple):
    """What a pod is to get."""

    pod: PodOfUse
    wanted: Sequence[WantedVolume]


class CheckVolumes(NamedTuple):
    """What to look at."""

    volumes: Sequence[str]
    repair: bool


def decode_create(message: pb.CreateVolumeRequest) -> VolumeOrder:
    return _order(message.namespace, message.name, message.spec)


def decode_import(message: pb.ImportVolumeRequest) -> tuple[VolumeOrder, str]:
    order = _order(message.namespace, message.name, message.spec)
    return order, checks.absolute(message.path, "path")


def decode_named(message: pb.RemoveVolumeRequest | pb.InspectVolumeRequest | pb.GetVolumeUsageRequest) -> str:
    return _text(message.volume, "volume")


def decode_list(message: pb.ListVolumesRequest) -> VolumeFilter:
    return VolumeFilter(
        namespace=checks.prefix(message.namespace, "namespace"),
        labels=tuple(sorted(_entries(message.labels, "labels").items())),
        pod_uid=checks.prefix(message.pod_uid, "pod_uid"),
        path=checks.absolute(message.path, "path") if message.path else "",
    )


def decode_publish(message: pb.PublishVolumesRequest) -> PublishOrder:
    namespace = names.label(message.pod_namespace, "pod_namespace")
    pod = PodOfUse(
        names.uid(message.pod_uid, "pod_uid"),
        namespace,
        names.subdomain(message.pod_name, "pod_name"),
        checks.absolute(message.pod_files, "pod_files") if message.pod_files else "",
        checks.name(message.service_account, "service_account", required=False),
        checks.number(message.fs_group, 0, checks.MAX_UID, "fs_group")
        if message.HasField("fs_group")
        else None,
    )
    wanted = []
    for number, one in enumerate(checks.at_most(message.volumes, MAX_WANTED, "volumes")):
        field = f"volumes[{number}]"
        order = _order(namespace, one.name, one.spec, field) if one.HasField("spec") else None
        wanted.append(
            WantedVolume(
                names.label(one.volume, f"{field}.volume"),
                names.subdomain(one.name, f"{field}.name"),
                order,
                one.read_only,
            )
        )
    if not wanted:
        checks.refuse("volumes", "is empty")
    checks.distinct((one.volume for one in wanted), "volumes", "volume")
    return PublishOrder(pod, wanted)


def decode_unpublish(message: pb.UnpublishVolumesRequest) -> str:
    return names.uid(message.pod_uid, "pod_uid")


def decode_resize(message: pb.ResizeVolumeRequest) -> tuple[str, int]:
    return _text(message.volume, "volume"), checks.number(message.capacity, 1, MAX_BYTES, "capacity")


def decode_snapshot(message: pb.SnapshotVolumeRequest) -> tuple[str, str]:
    return _text(message.volume, "volume"), names.subdomain(message.name, "name")


def decode_list_snapshots(message: pb.ListVolumeSnapshotsRequest) -> str:
    return checks.prefix(message.namespace, "namespace")


def decode_remove_snapshot(message: pb.RemoveVolumeSnapshotRequest) -> str:
    return _text(message.snapshot, "snapshot")


def decode_export(message: pb.ExportVolumeRequest) -> tuple[str, str]:
    return _text(message.volume, "volume"), checks.absolute(message.path, "path")


def decode_prune(message: pb.PruneVolumesRequest) -> tuple[bool, bool]:
    return message.all, message.dry_run


def decode_check(message: pb.CheckVolumesRequest) -> CheckVolumes:
    wanted = checks.at_most(message.volumes, MAX_VOLUMES, "volumes")
    texts = tuple(_text(text, f"volumes[{number}]") for number, text in enumerate(wanted))
    return CheckVolumes(texts, message.repair)


def _order(namespace: str, name: str, spec: pb.VolumeSpec, field: str = "") -> VolumeOrder:
    before = f"{field}." if field else ""
    at = f"{before}spec"
    reclaim = None
    if spec.reclaim:
        reclaim = _choice(Reclaim, spec.reclaim, f"{at}.reclaim")
    return VolumeOrder(
        VolumeName(
            names.label(namespace or DEFAULT_NAMESPACE, f"{before}namespace"),
            names.subdomain(name, f"{before}name"),
        ),
        _spec(spec, at),
        reclaim,
        says_modes=bool(spec.access_modes),
    )


def _spec(spec: pb.VolumeSpec, at: str) -> VolumeSpec:
    modes = tuple(
        _choice(AccessMode, text, f"{at}.access_modes[{number}]")
        for number, text in enumerate(
            checks.at_most(spec.access_modes, len(AccessMode), f"{at}.access_modes")
        )
    )
    options = checks.at_most(spec.mount_options, limits.MAX_MOUNT_OPTIONS, f"{at}.mount_options")
    secrets = _entries(spec.secrets, f"{at}.secrets")
    return VolumeSpec(
        kind=checks.name(spec.kind, f"{at}.kind", required=False),
        storage_class=checks.name(spec.storage_class, f"{at}.storage_class", required=False),
        driver=checks.name(spec.driver, f"{at}.driver", required=False),
        parameters=_entries(spec.parameters, f"{at}.parameters"),
        source=checks.no_nul(checks.short(spec.source, MAX_TEXT, f"{at}.source"), f"{at}.source"),
        snapshot=checks.prefix(spec.snapshot, f"{at}.snapshot"),
        clone_of=checks.prefix(spec.clone_of, f"{at}.clone_of"),
        capacity=checks.number(spec.capacity, 0, MAX_BYTES, f"{at}.capacity"),
        access_modes=tuple(dict.fromkeys(modes)) or ONLY_READ_WRITE_ONCE,
        block=spec.block,
        fs_type=checks.name(spec.fs_type, f"{at}.fs_type", required=False),
        mount_options=tuple(checks.line(one, f"{at}.mount_options") for one in options),
        labels=_entries(spec.labels, f"{at}.labels"),
        secrets={key: checks.absolute(file, f"{at}.secrets[{key!r}]") for key, file in secrets.items()},
        owner=names.uid(spec.owner, f"{at}.owner") if spec.owner else "",
        inline=spec.inline,
    )


def _choice(kind: type[W], text: str, field: str) -> W:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        checks.refuse(field, f"is {text[:100]!r}, and must be one of {known}")


def _entries(values: Mapping[str, str], field: str) -> dict[str, str]:
    for key, value in checks.at_most(values, MAX_ENTRIES, field).items():
        if not key:
            checks.refuse(field, "has an empty key")
        for text in (key, value):
            checks.no_nul(checks.short(text, MAX_TEXT, field), field)
    return dict(values)


def _text(text: str, field: str) -> str:
    """What a volume or snapshot is called by."""
    if not text:
        checks.refuse(field, "is empty")
    return checks.short(text, 2 * limits.MAX_NAME + 1, field)


def encode_volume(row: VolumeRecord) -> pb.Volume:
    return pb.Volume(
        id=row.id,
        namespace=row.name.namespace,
        name=row.name.name,
        spec=_encode_spec(row.spec),
        state=row.state,
        created_at=row.created_at,
        handle=row.handle,
        capacity=row.capacity,
        stage=row.stage,
        uses=map(_encode_use, row.uses),
        problem=row.problem,
        image_id=row.image_id or "",
    )


def _encode_spec(spec: VolumeSpec) -> pb.VolumeSpec:
    return pb.VolumeSpec(
        kind=spec.kind,
        storage_class=spec.storage_class,
        driver=spec.driver,
        parameters=spec.parameters,
        source=spec.source,
        snapshot=spec.snapshot,
        clone_of=spec.clone_of,
        capacity=spec.capacity,
        access_modes=spec.access_modes,
        block=spec.block,
        fs_type=spec.fs_type,
        mount_options=spec.mount_options,
        labels=spec.labels,
        secrets=spec.secrets,
        owner=spec.owner,
        inline=spec.inline,
        reclaim=spec.reclaim,
    )


def _encode_use(use: VolumeUse) -> pb.VolumeUse:
    return pb.VolumeUse(
        pod_uid=use.pod.uid,
        pod_namespace=use.pod.namespace,
        pod_name=use.pod.name,
        volume=use.volume,
        read_only=use.read_only,
        state=use.state,
        since=use.since,
        path=use.path,
        problem=use.problem,
        pod_files=use.pod.files,
    )


def encode_snapshot(row: SnapshotRecord) -> pb.VolumeSnapshot:
    return pb.VolumeSnapshot(
        id=row.id,
        namespace=row.name.namespace,
        name=row.name.name,
        volume_id=row.volume,
        volume_name=row.volume_name,
        kind=row.spec.kind,
        driver=row.spec.driver,
        state=row.state,
        created_at=row.created_at,
        size=row.size,
        usable=row.usable,
        handle=row.handle,
        problem=row.problem,
    )


def encode_inspected(
    row: VolumeRecord, snapshots: Iterable[SnapshotRecord], can: Iterable[str]
) -> pb.InspectVolumeResponse:
    found = map(encode_snapshot, snapshots)
    return pb.InspectVolumeResponse(volume=encode_volume(row), snapshots=found, can=can)


def encode_created(made: Created) -> pb.CreateVolumeResponse:
    return pb.CreateVolumeResponse(volume=encode_volume(made.record), warnings=made.warnings)


def encode_imported(made: Created, size: int) -> pb.ImportVolumeResponse:
    volume = encode_volume(made.record)
    return pb.ImportVolumeResponse(volume=volume, size_bytes=size, warnings=made.warnings)


def encode_published(published: Iterable[Published]) -> pb.PublishVolumesResponse:
    return pb.PublishVolumesResponse(
        volumes=[
            pb.PublishedVolume(
                volume=one.use.volume,
                volume_id=one.record.id,
                path=one.use.path,
                block=one.record.spec.block,
                read_only=one.use.read_only,
                kind=one.record.spec.kind,
                created=one.created,
                warnings=one.warnings,
                has_group=one.has_group,
                image_id=one.record.image_id or "",
            )
            for one in published
        ]
    )


def encode_usage(usage: VolumeUsage) -> pb.GetVolumeUsageResponse:
    told = pb.VolumeUsage(problem=usage.problem)
    for field, value in (
        ("total_bytes", usage.total),
        ("available_bytes", usage.available),
        ("used_bytes", usage.used),
        ("inodes", usage.inodes),
        ("inodes_free", usage.inodes_free),
        ("inodes_used", usage.inodes_used),
    ):
        if value is not None:
            setattr(told, field, value)
    return pb.GetVolumeUsageResponse(usage=told)


def encode_pruned(pruned: Pruned) -> pb.PrunedVolume:
    return pb.PrunedVolume(
        volume=str(pruned.name), reason=pruned.reason, removed=pruned.removed, problem=pruned.problem
    )
