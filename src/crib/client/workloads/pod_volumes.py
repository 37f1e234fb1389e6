"""A pod's volumes that the runtime keeps: given to the pod before it runs, taken from it when it is removed.

Only crib keeps volumes. Another runtime's pods get a plain directory for an `emptyDir` of limited size, and
everything else is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from crib.client import volumes
from crib.client.errors import ClientError, NotOffered, PodFailure
from crib.client.workloads import files
from crib.manifest.late import has_own_users, placed, with_images
from crib.stubs.node.v1.node_pb2 import PublishVolumesRequest, VolumeSpec, WantedVolume

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from crib.client.connection import Connection
    from crib.manifest.claim_plan import ClaimPlan
    from crib.manifest.plan import Dirs, PodPlan, VolumePlan
    from crib.stubs.node.v1.node_pb2 import PublishedVolume, Volume, VolumeUse


async def check(connection: Connection, plans: Sequence[PodPlan]) -> None:
    """Refuse pods with claims, before anything is made, at a runtime that keeps no volumes."""
    for plan in plans:
        needed = [volume for volume in plan.volumes if volume.kind == "claim"]
        if needed and not await _keeps_volumes(connection):
            raise PodFailure(
                f"pod {plan.label}: volume {needed[0].name}: claims, ephemeral and csi volumes need cribd; "
                "this runtime keeps no volumes"
            )


async def _keeps_volumes(connection: Connection) -> bool:
    try:
        async for _ in volumes.list_volumes(connection, pod_uid="-"):  # nobody has this uid
            pass
    except NotOffered:
        return False
    return True


async def attach(connection: Connection, plan: PodPlan, dirs: Dirs, note: Callable[[str], None]) -> PodPlan:
    """Give the pod its volumes; the plan with the paths that they have. Its files are made already.

    What the pod has already stays as it is. ClientError, OSError.
    """
    if not any(volume.claim is not None for volume in plan.volumes):
        return plan
    try:
        published = await _publish(connection, plan, dirs)
    except NotOffered:
        return await asyncio.to_thread(_with_directories, plan, dirs, note)
    read_only = [name for name, one in published.items() if one.read_only]
    images = {name: one.image_id for name, one in published.items() if one.kind == "image"}
    paths = {name: one.path for name, one in published.items()}
    found = placed(_as_images(plan, images), paths, read_only, images)
    for volume in found.volumes:
        if (one := published.get(volume.name)) is not None:
            _tell(plan, volume, one, note)
            if await _takes_group(connection, plan, volume, one):
                await asyncio.to_thread(files.give_to_group, volume)
    return found


def _as_images(plan: PodPlan, images: Mapping[str, str]) -> PodPlan:
    return with_images(plan, images) if has_own_users(plan.sandbox) else plan


async def _publish(connection: Connection, plan: PodPlan, dirs: Dirs) -> dict[str, PublishedVolume]:
    """By the volumes' names in the pod."""
    claims = [volume.claim for volume in plan.volumes if volume.claim is not None]
    here = await _those_there(connection, claims)
    wanted = [claim for claim in claims if claim.name not in here]
    cloned = await _cloned(connection, wanted)
    taken = await _bring_sources(connection, [claim for claim in wanted if claim.name not in cloned])
    try:
        found = await volumes.publish(connection, _request(plan, dirs, here, cloned))
    finally:
        for snapshot in taken:
            with contextlib.suppress(ClientError):  # it is listed, and the next attempt replaces it
                await volumes.remove_snapshot(connection, snapshot)
    return {one.volume: one for one in found}


def _tell(plan: PodPlan, volume: VolumePlan, one: PublishedVolume, note: Callable[[str], None]) -> None:
    assert volume.claim is not None
    where = f"pod {plan.label}: volume {volume.name}: {volume.claim.label}"
    if one.block != volume.claim.spec.block:
        way = "is a device (volumeMode: Block): use volumeDevices" if one.block else "is no device"
        raise PodFailure(f"{where} {way}")
    for warning in one.warnings:
        note(f"note: {where}: {warning}")


async def _takes_group(
    connection: Connection, plan: PodPlan, volume: VolumePlan, one: PublishedVolume
) -> bool:
    """Whether `fsGroup` is for this volume: as a kubelet has it, of a CSI driver's only some."""
    if volume.group is None or one.block or one.read_only or one.has_group:
        return False
    if one.kind != "csi":
        return one.kind != "image"
    async for found in volumes.list_volumes(connection, pod_uid=plan.uid):
        if found.id == one.volume_id:  # CSIDriver.spec.fsGroupPolicy: ReadWriteOnceWithFSType is its default
            once = {"ReadWriteOnce", "ReadWriteOncePod"}
            return bool(found.spec.fs_type) and once.issuperset(found.spec.access_modes)
    return False


def _with_directories(plan: PodPlan, dirs: Dirs, note: Callable[[str], None]) -> PodPlan:
    """Mere directories, where a runtime keeps no volumes."""
    paths = {one.name: dirs.volume(plan.uid, one.name) for one in plan.volumes if one.claim is not None}
    found = placed(plan, paths)
    for volume in found.volumes:
        where = f"pod {plan.label}: volume {volume.name}"
        if volume.claim is not None and volume.kind != "emptyDir":
            raise PodFailure(f"{where}: this runtime keeps no volumes")
        if volume.claim is not None and not os.path.isdir(volume.path):
            files.make_volume(volume)
            note(f"note: {where}: this runtime enforces no sizeLimit on disk")
    return found


async def _those_there(connection: Connection, claims: Sequence[ClaimPlan]) -> set[str]:
    """Names of claims whose volumes are there already and are taken as they are."""
    open_ones = {one.name for one in claims if not one.is_described or one.spec.source is not None}
    if not open_ones:
        return set()
    listed = volumes.list_volumes(connection, namespace=claims[0].namespace)
    return {one.name async for one in listed if one.name in open_ones}


async def _cloned(connection: Connection, claims: Sequence[ClaimPlan]) -> set[str]:
    """Names of claims whose driver makes their volume of another one without a snapshot in between."""
    found = set()
    for claim in claims:
        source = claim.spec.source
        if source is not None and not source.is_snapshot:
            shown = await volumes.inspect(connection, f"{claim.namespace}/{source.name}")
            if volumes.CLONES in shown.can:
                found.add(claim.name)
    return found


def _request(
    plan: PodPlan, dirs: Dirs, here: Collection[str], cloned: Collection[str]
) -> PublishVolumesRequest:
    """`here` are names of volumes of which nothing is said but that the pod wants them."""
    request = PublishVolumesRequest(
        pod_uid=plan.uid,
        pod_namespace=plan.namespace,
        pod_name=plan.name,
        pod_files=plan.directory,
        service_account=plan.account,
    )
    for volume in plan.volumes:
        if volume.claim is not None:
            if volume.group is not None:
                request.fs_group = volume.group  # of the pod, and so of each of its volumes
            wanted = WantedVolume(volume=volume.name, name=volume.claim.name, read_only=volume.read_only)
            if volume.claim.name not in here:
                secrets = dirs.secrets(plan.uid, volume.name)
                cloning = volume.claim.name in cloned
                wanted.spec.CopyFrom(spec_of(volume.claim, plan.uid, secrets, cloning=cloning))
            request.volumes.append(wanted)
    return request


def spec_of(claim: ClaimPlan, uid: str, secrets: str, *, cloning: bool = False) -> VolumeSpec:
    """What is asked of the volume of a claim; `secrets` is the directory with those of its driver.

    `cloning`: the volume that it begins as needs no snapshot.
    """
    asked = claim.spec
    spec = VolumeSpec(
        kind=asked.kind,
        storage_class=asked.storage_class,
        source=asked.device,
        capacity=asked.size,
        access_modes=asked.access_modes,
        block=asked.block,
        fs_type=asked.fs_type,
        mount_options=asked.mount_options,
        labels=dict(claim.labels),
        owner=uid if claim.with_pod else "",
    )
    if asked.source is not None and cloning:
        spec.clone_of = f"{claim.namespace}/{asked.source.name}"
    elif asked.source is not None:
        name = asked.source.name if asked.source.is_snapshot else volumes.clones_snapshot(claim.name)
        spec.snapshot = f"{claim.namespace}/{name}"
    if asked.driver is not None:
        spec.driver, spec.source = asked.driver.driver, asked.driver.handle
        spec.inline = not asked.driver.handle
        spec.parameters.update(asked.driver.attributes)
        spec.secrets.update({key: os.path.join(secrets, key) for key, _ in asked.driver.secrets})
    return spec


async def _bring_sources(connection: Connection, claims: Sequence[ClaimPlan]) -> list[str]:
    """Take the snapshots that new volumes are made of; returns those that nobody needs afterwards."""
    wanted = [(claim, claim.spec.source) for claim in claims if claim.spec.source is not None]
    if not wanted:
        return []
    namespace = claims[0].namespace
    taken = {one.name async for one in volumes.list_snapshots(connection, namespace=namespace)}
    clones = []
    for claim, source in wanted:
        if source.is_snapshot:
            if source.taken_of and source.name not in taken:
                await volumes.snapshot(connection, f"{namespace}/{source.taken_of}", source.name)
            continue
        clones.append(await volumes.snapshot_for_clone(connection, f"{namespace}/{source.name}", claim.name))
    return clones


async def detach(connection: Connection, dirs: Dirs, uid: str) -> None:
    """Take its volumes from a pod that is removed, then remove its files.

    The files go even if a volume cannot be taken from it: `crib volume prune` then sees that it is gone.
    ClientError, OSError.
    """
    try:
        if await asyncio.to_thread(files.is_attached, dirs, uid):
            await asyncio.to_thread(files.unbind, dirs, uid)
            await volumes.unpublish(connection, uid)
    except NotOffered:
        pass  # it had directories only
    except ClientError as error:
        error.args = (f"{error.message} (crib volume prune tries again)",)
        raise
    finally:
        await asyncio.to_thread(files.remove, dirs, uid)


async def attached(connection: Connection, dirs: Dirs, uid: str) -> dict[str, tuple[Volume, VolumeUse]]:
    """The volumes that a pod has of the runtime, by their paths."""
    if not await asyncio.to_thread(files.is_attached, dirs, uid):
        return {}
    try:
        here = [one async for one in volumes.list_volumes(connection, pod_uid=uid)]
    except NotOffered:
        return {}
    return {use.path: (one, use) for one in here for use in one.uses if use.pod_uid == uid and use.path}


async def as_attached(connection: Connection, plan: PodPlan, uid: str, dirs: Dirs) -> PodPlan:
    """The plan with the paths of the volumes that the pod with this uid has."""
    if not any(volume.claim is not None for volume in plan.volumes):
        return plan
    try:
        here = [one async for one in volumes.list_volumes(connection, pod_uid=uid)]
    except NotOffered:
        return placed(
            plan, {one.name: dirs.volume(plan.uid, one.name) for one in plan.volumes if one.claim is not None}
        )
    uses = [(use, one) for one in here for use in one.uses if use.pod_uid == uid]
    read_only = [use.volume for use, _ in uses if use.read_only]
    images = {use.volume: one.image_id for use, one in uses if one.spec.kind == "image"}
    paths = {use.volume: use.path for use, _ in uses if use.path}
    return placed(_as_images(plan, images), paths, read_only, images)
