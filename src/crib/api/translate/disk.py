"""crib's own Node service, what takes how much of the disk."""

from __future__ import annotations

from crib.model.disk import ContainerUse, DiskUse
from crib.stubs.node.v1 import node_pb2 as pb


def encode_use(use: DiskUse) -> pb.DiskUsageResponse:
    return pb.DiskUsageResponse(
        layers=[
            pb.LayerUse(
                diff_id=layer.diff_id,
                bytes=layer.size,
                images=layer.images,
                containers=layer.containers,
                reclaimable=layer.is_reclaimable,
            )
            for layer in use.layers
        ],
        images=[
            pb.ImageUse(
                image_id=image.id,
                names=image.names,
                bytes=image.size,
                own_bytes=image.own,
                containers=image.containers,
                pinned=image.pinned,
            )
            for image in use.images
        ],
        containers=map(_container, use.containers),
        half_made_bytes=use.half_made,
        records=use.records,
        total_bytes=use.space.total,
        free_bytes=use.space.free,
    )


def _container(use: ContainerUse) -> pb.ContainerUse:
    return pb.ContainerUse(
        container_id=use.id,
        pod_sandbox_id=use.sandbox_id,
        pod=use.pod,
        name=use.name,
        image_id=use.image_id,
        ended=use.has_ended,
        writable_bytes=use.writable,
        writable_inodes=use.inodes,
        log_bytes=use.logs,
    )
