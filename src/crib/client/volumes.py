"""Volumes that crib keeps for pods without a kubelet. Every call raises NotOffered from another runtime.

A volume is named NAME (in the namespace default), NAMESPACE/NAME, or by the beginning of its id. Sizes are
bytes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from crib.client.errors import AlreadyExists, ClientError, NotFound
from crib.stubs.node.v1.node_pb2 import (
    CheckVolumesRequest,
    CreateVolumeRequest,
    CreateVolumeResponse,
    ExportVolumeRequest,
    Finding,
    GetVolumeUsageRequest,
    ImportVolumeRequest,
    ImportVolumeResponse,
    InspectVolumeRequest,
    InspectVolumeResponse,
    ListVolumeDriversRequest,
    ListVolumeSnapshotsRequest,
    ListVolumesRequest,
    PrunedVolume,
    PruneVolumesRequest,
    PublishedVolume,
    PublishVolumesRequest,
    RemoveVolumeRequest,
    RemoveVolumeSnapshotRequest,
    ResizeVolumeRequest,
    SnapshotVolumeRequest,
    UnpublishVolumesRequest,
    Volume,
    VolumeDriver,
    VolumeSnapshot,
    VolumeSpec,
    VolumeUsage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from crib.client.connection import Connection

WORK_TIMEOUT = 15 * 60.0
"""Seconds that making, publishing or removing volumes may take: each step has a limit of the daemon's own."""
COPY_TIMEOUT = 4 * 3600.0
"""Seconds that an export, an import or a snapshot may take: it copies all files."""
DEFAULT_NAMESPACE = "default"
CLONES = "clones"
"""Of InspectVolumeResponse.can: another volume may begin as this one, without a snapshot in between."""


async def create(
    connection: Connection, name: str, spec: VolumeSpec, *, namespace: str = DEFAULT_NAMESPACE
) -> CreateVolumeResponse:
    """Make a volume, or get the one that is the same already. AlreadyExists when it differs.

    A snapshot that it begins as is named in `spec.snapshot`, and is copied by some kinds.
    """
    request = CreateVolumeRequest(namespace=namespace, name=name, spec=spec)
    return await connection.call(connection.node.CreateVolume, request, timeout=COPY_TIMEOUT)


async def clone(
    connection: Connection, source: str, name: str, spec: VolumeSpec, *, namespace: str = DEFAULT_NAMESPACE
) -> CreateVolumeResponse:
    """Make a volume that begins as another one is now, which pods may use meanwhile.

    What `spec` leaves open is as in the source, but for labels. AlreadyExists, also for one that is the same:
    by now it holds something else. NotFound; WrongState where the kind has neither clones nor snapshots.
    """
    shown = await inspect(connection, source)
    there = shown.volume
    async for one in list_volumes(connection, namespace=namespace):
        if one.name == name:
            raise AlreadyExists(f"volume {namespace}/{name} is there already")
    wanted = like(there.spec, spec)
    wanted.capacity = wanted.capacity or there.capacity
    if CLONES in shown.can:
        wanted.clone_of = there.id
        return await create(connection, name, wanted, namespace=namespace)
    wanted.snapshot = await snapshot_for_clone(connection, f"{there.namespace}/{there.name}", name)
    try:
        return await create(connection, name, wanted, namespace=namespace)
    finally:
        with contextlib.suppress(ClientError):  # it is listed, and the next attempt replaces it
            await remove_snapshot(connection, wanted.snapshot)


def like(source: VolumeSpec, spec: VolumeSpec) -> VolumeSpec:
    """The spec of a clone: what `spec` says, and the rest as the source has it."""
    wanted = VolumeSpec()
    wanted.CopyFrom(spec)
    if not (spec.kind or spec.storage_class):
        wanted.kind, wanted.storage_class, wanted.driver = source.kind, source.storage_class, source.driver
    wanted.parameters.clear()
    wanted.parameters.update({**source.parameters, **spec.parameters})
    wanted.secrets.clear()
    wanted.secrets.update({**source.secrets, **spec.secrets})
    wanted.block = spec.block or source.block
    wanted.fs_type = spec.fs_type or source.fs_type
    if not spec.access_modes:
        wanted.access_modes.extend(source.access_modes)
    if not spec.mount_options:
        wanted.mount_options.extend(source.mount_options)
    return wanted


def clones_snapshot(name: str) -> str:
    """What the snapshot is called from which the volume of this name is made."""
    return f"{name}-clone"


async def snapshot_for_clone(connection: Connection, source: str, name: str) -> str:
    """Keep the source, NAMESPACE/NAME, as it is now, for a volume that is made of that; the snapshot's name.

    One of an attempt that was cut off is replaced: the source may hold something else by now.
    """
    own = clones_snapshot(name)
    label = f"{source.partition('/')[0]}/{own}"
    with contextlib.suppress(NotFound):
        await remove_snapshot(connection, label)
    await snapshot(connection, source, own)
    return label


async def remove(connection: Connection, volume: str) -> None:
    """Remove it and what it holds. WrongState while a pod uses it, NotFound."""
    request = RemoveVolumeRequest(volume=volume)
    await connection.call(connection.node.RemoveVolume, request, timeout=WORK_TIMEOUT)


def list_volumes(
    connection: Connection,
    *,
    namespace: str = "",
    labels: Mapping[str, str] | None = None,
    pod_uid: str = "",
    path: str = "",
) -> AsyncIterator[Volume]:
    """Volumes by namespace and name: those with these labels, that a pod uses, or behind a published path."""
    request = ListVolumesRequest(namespace=namespace, labels=labels or {}, pod_uid=pod_uid, path=path)
    return connection.stream(connection.node.ListVolumes, request)


async def inspect(connection: Connection, volume: str) -> InspectVolumeResponse:
    """It, its snapshots and what can be done with it. NotFound."""
    return await connection.call(connection.node.InspectVolume, InspectVolumeRequest(volume=volume))


async def publish(connection: Connection, request: PublishVolumesRequest) -> list[PublishedVolume]:
    """Give a pod its volumes before it runs; where each is on the host, in the order of the request.

    What the pod has already is told again. When one fails, none of this call is left with the pod.
    """
    reply = await connection.call(connection.node.PublishVolumes, request, timeout=WORK_TIMEOUT)
    return list(reply.volumes)


async def unpublish(connection: Connection, pod_uid: str) -> list[str]:
    """Take all volumes from a pod that is removed; names of the volumes that went with it."""
    request = UnpublishVolumesRequest(pod_uid=pod_uid)
    reply = await connection.call(connection.node.UnpublishVolumes, request, timeout=WORK_TIMEOUT)
    return list(reply.removed)


async def resize(connection: Connection, volume: str, capacity: int) -> Volume:
    """Make it larger. WrongState when its kind cannot, InvalidRequest for less than it has."""
    request = ResizeVolumeRequest(volume=volume, capacity=capacity)
    reply = await connection.call(connection.node.ResizeVolume, request, timeout=WORK_TIMEOUT)
    return reply.volume


async def usage(connection: Connection, volume: str) -> VolumeUsage:
    """How full it is."""
    request = GetVolumeUsageRequest(volume=volume)
    reply = await connection.call(connection.node.GetVolumeUsage, request, timeout=WORK_TIMEOUT)
    return reply.usage


async def snapshot(connection: Connection, volume: str, name: str) -> VolumeSnapshot:
    """Keep it as it is now. WrongState when its kind cannot, AlreadyExists."""
    request = SnapshotVolumeRequest(volume=volume, name=name)
    reply = await connection.call(connection.node.SnapshotVolume, request, timeout=COPY_TIMEOUT)
    return reply.snapshot


def list_snapshots(connection: Connection, *, namespace: str = "") -> AsyncIterator[VolumeSnapshot]:
    """Snapshots, by namespace and name."""
    request = ListVolumeSnapshotsRequest(namespace=namespace)
    return connection.stream(connection.node.ListVolumeSnapshots, request)


async def remove_snapshot(connection: Connection, snapshot: str) -> None:
    """Remove a snapshot, which is named as a volume is. NotFound."""
    request = RemoveVolumeSnapshotRequest(snapshot=snapshot)
    await connection.call(connection.node.RemoveVolumeSnapshot, request, timeout=WORK_TIMEOUT)


async def export(connection: Connection, volume: str, path: str) -> int:
    """Write its files to a tar archive on the node, which must not be there yet; bytes of the archive."""
    request = ExportVolumeRequest(volume=volume, path=path)
    return (await connection.call(connection.node.ExportVolume, request, timeout=COPY_TIMEOUT)).size_bytes


async def import_files(
    connection: Connection, name: str, spec: VolumeSpec, path: str, *, namespace: str = DEFAULT_NAMESPACE
) -> ImportVolumeResponse:
    """Make a volume and fill it from a tar archive or a directory of the node. AlreadyExists."""
    request = ImportVolumeRequest(namespace=namespace, name=name, spec=spec, path=path)
    return await connection.call(connection.node.ImportVolume, request, timeout=COPY_TIMEOUT)


def prune(
    connection: Connection, *, everything: bool = False, dry_run: bool = False
) -> AsyncIterator[PrunedVolume]:
    """Take volumes from pods whose files are gone, and remove volumes that such pods own.

    `everything` also removes volumes that no pod uses, unless they are to be retained.
    """
    request = PruneVolumesRequest(all=everything, dry_run=dry_run)
    return connection.stream(connection.node.PruneVolumes, request, COPY_TIMEOUT)


def check(
    connection: Connection, volumes: Sequence[str] = (), *, repair: bool = False
) -> AsyncIterator[Finding]:
    """What is wrong with these volumes, or with all; `repair` repairs what it can."""
    request = CheckVolumesRequest(volumes=volumes, repair=repair)
    return connection.stream(connection.node.CheckVolumes, request, COPY_TIMEOUT)


async def drivers(connection: Connection) -> Sequence[VolumeDriver]:
    """Storage drivers (CSI) of the daemon's configuration, each asked now; not ready ones say why."""
    request = ListVolumeDriversRequest()
    return (await connection.call(connection.node.ListVolumeDrivers, request)).drivers
