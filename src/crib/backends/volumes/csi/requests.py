"""What a volume's record is in the words of the interface. Pure."""

from __future__ import annotations

from crib.backends.volumes.csi.driver_facts import DriverFacts
from crib.model.volumes import (
    AccessMode,
    PodOfUse,
    SnapshotId,
    SnapshotRecord,
    VolumeId,
    VolumeRecord,
    VolumeSpec,
    VolumeUse,
)
from crib.stubs.csi.v1 import csi_pb2 as pb

_Mode = pb.VolumeCapability.AccessMode

POD_KEYS = "csi.storage.k8s.io"
"""Before the keys that tell a driver of the pod, as Kubernetes calls them (CSIDriver podInfoOnMount)."""


def volume_name(volume: VolumeId) -> str:
    """What the driver is told to call it: the same each time, and like no other's."""
    return f"crib-{volume}"


def snapshot_name(snapshot: SnapshotId) -> str:
    return f"crib-{snapshot}"


def inline_handle(volume: VolumeId) -> str:
    """The id of a volume that the driver makes when it is published."""
    return f"csi-{volume}"


def mode(spec: VolumeSpec, facts: DriverFacts) -> _Mode.Mode.ValueType:
    """The one mode that all of the volume's allow, as Kubernetes has it (csi-lib-utils, accessmodes)."""
    modes = set(spec.access_modes)
    once = modes & {AccessMode.READ_WRITE_ONCE, AccessMode.READ_WRITE_ONCE_POD}
    if AccessMode.READ_WRITE_MANY in modes:
        return _Mode.MULTI_NODE_MULTI_WRITER
    if AccessMode.READ_ONLY_MANY in modes:
        return _Mode.MULTI_NODE_SINGLE_WRITER if once else _Mode.MULTI_NODE_READER_ONLY
    if not facts.counts_writers:
        return _Mode.SINGLE_NODE_WRITER
    if AccessMode.READ_WRITE_ONCE in modes:
        return _Mode.SINGLE_NODE_MULTI_WRITER
    return _Mode.SINGLE_NODE_SINGLE_WRITER


def reads_only(spec: VolumeSpec) -> bool:
    """Nobody may write to it."""
    return set(spec.access_modes) == {AccessMode.READ_ONLY_MANY}


def capability(spec: VolumeSpec, facts: DriverFacts, pod: PodOfUse | None = None) -> pb.VolumeCapability:
    """How the volume is used; the same in all calls, or drivers refuse the second one. Only mounts have a pod
    whose group may count.
    """
    access = _Mode(mode=mode(spec, facts))
    if spec.block:
        return pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume(), access_mode=access)
    has_group = facts.gives_group and pod is not None and pod.fs_group is not None
    group = str(pod.fs_group) if pod is not None and has_group else ""
    mount = pb.VolumeCapability.MountVolume(
        fs_type=spec.fs_type, mount_flags=spec.mount_options, volume_mount_group=group
    )
    return pb.VolumeCapability(mount=mount, access_mode=access)


def creation(
    record: VolumeRecord, origin: SnapshotRecord | VolumeRecord | None, facts: DriverFacts
) -> pb.CreateVolumeRequest:
    """Without secrets, for it is noted. `origin`: what it begins as."""
    spec = record.spec
    request = pb.CreateVolumeRequest(
        name=volume_name(record.id),
        volume_capabilities=[capability(spec, facts)],
        parameters=spec.parameters,
    )
    size = spec.capacity
    if isinstance(origin, SnapshotRecord):
        size = size or origin.size
        request.volume_content_source.snapshot.snapshot_id = origin.handle
    elif origin is not None:
        size = size or origin.capacity
        request.volume_content_source.volume.volume_id = origin.handle
    if size:
        request.capacity_range.required_bytes = size
    if facts.is_somewhere and facts.topology:
        here = pb.Topology(segments=facts.topology)
        request.accessibility_requirements.requisite.append(here)
        request.accessibility_requirements.preferred.append(here)
    return request


def is_here(made: pb.Volume, facts: DriverFacts) -> bool:
    """Whether a volume that was made can be had on this node."""
    places = [place.segments for place in made.accessible_topology]
    return not places or any(
        all(facts.topology.get(key) == value for key, value in place.items()) for place in places
    )


def handle_of(record: VolumeRecord) -> str:
    """What the driver calls the volume."""
    return inline_handle(record.id) if record.spec.inline else record.handle


def context_of(record: VolumeRecord) -> dict[str, str]:
    """What the driver wants to be told of the volume: its own words, or those that a person wrote for it."""
    spec = record.spec
    return dict(spec.parameters if spec.inline or spec.source else record.context)


def pod_context(record: VolumeRecord, use: VolumeUse) -> dict[str, str]:
    """What drivers are told of the pod that ask for it."""
    return {
        f"{POD_KEYS}/pod.name": use.pod.name,
        f"{POD_KEYS}/pod.namespace": use.pod.namespace,
        f"{POD_KEYS}/pod.uid": use.pod.uid,
        f"{POD_KEYS}/serviceAccount.name": use.pod.service_account,
        f"{POD_KEYS}/ephemeral": str(record.spec.inline).lower(),
    }
