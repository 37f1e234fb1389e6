"""Volumes of the runtime as a manifest has them: the way back from what `pod_volumes` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crib.stubs.node.v1.node_pb2 import Volume, VolumeSpec, VolumeUse

_CLASSLESS_MODE = "ReadWriteOnce"


def volume_source(volume: Volume, use: VolumeUse) -> dict[str, Any]:
    """What a pod's volume is made of: an entry of `spec.volumes` without its name."""
    spec = volume.spec
    if not spec.owner:
        claim = {"claimName": volume.name, **({"readOnly": True} if use.read_only else {})}
        return {"persistentVolumeClaim": claim}
    if spec.inline:
        found = {
            "driver": spec.driver,
            "fsType": spec.fs_type,
            "readOnly": use.read_only,
            "volumeAttributes": dict(sorted(spec.parameters.items())),
        }
        return {"csi": {name: value for name, value in found.items() if value}}
    if spec.kind == "local" and not spec.storage_class:
        return {"emptyDir": {"sizeLimit": str(spec.capacity)}}
    template: dict[str, Any] = {"spec": _claim_spec(spec)}
    if spec.labels:
        template["metadata"] = {"labels": dict(sorted(spec.labels.items()))}
    return {"ephemeral": {"volumeClaimTemplate": template}}


def claim_document(volume: Volume) -> dict[str, Any]:
    """The claim that a volume is made by."""
    metadata: dict[str, Any] = {"name": volume.name}
    if volume.namespace != "default":
        metadata["namespace"] = volume.namespace
    if volume.spec.labels:
        metadata["labels"] = dict(sorted(volume.spec.labels.items()))
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": _claim_spec(volume.spec),
    }


def _claim_spec(spec: VolumeSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"accessModes": list(spec.access_modes) or [_CLASSLESS_MODE]}
    if spec.storage_class:
        found["storageClassName"] = spec.storage_class
    if spec.block:
        found["volumeMode"] = "Block"
    if spec.capacity:
        found["resources"] = {"requests": {"storage": str(spec.capacity)}}
    return found
