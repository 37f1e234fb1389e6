"""Somebody who gives a pod its volumes and takes them back, and again until that has succeeded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from crib.client import volumes
from crib.client.errors import NotFound
from crib.stubs.node.v1.node_pb2 import (
    PublishedVolume,
    PublishVolumesRequest,
    SnapshotVolumeRequest,
    VolumeSpec,
    WantedVolume,
)
from tests.crash.steered import Kubelet, Work
from tests.system.labs.daemon import until

VERBS = ("publish volumes", "keep volume", "export volume", "unpublish volumes", "remove volumes")
KINDS = {"disk": "local", "memory": "tmpfs", "file": "block"}
SIZE = 8 << 20


@dataclass
class VolumeUser(Kubelet):
    """With a volume of each kind that needs nobody else."""

    archive: Path = field(default_factory=Path)
    """Before the number of an export."""
    exports: int = 0

    def _life(self) -> list[tuple[str, Work, bool]]:
        works = (self._publish, self._keep, self._export, self._unpublish, self._remove_volumes)
        return [(verb, work, False) for verb, work in zip(VERBS, works, strict=True)]

    async def _given(self) -> list[PublishedVolume]:
        wanted = [
            WantedVolume(volume=name, name=name, spec=VolumeSpec(kind=kind, capacity=SIZE))
            for name, kind in KINDS.items()
        ]
        request = PublishVolumesRequest(
            pod_uid="uid-pod", pod_namespace="default", pod_name="pod", volumes=wanted
        )
        return await volumes.publish(self.cri.connection, request)

    async def _publish(self) -> None:
        for one in await self._given():
            Path(one.path, "file").write_text(one.volume)

    async def _keep(self) -> None:
        request = SnapshotVolumeRequest(volume="disk", name="kept")
        await self.cri.connection.call(self.cri.connection.node.SnapshotVolume, request)

    async def _export(self) -> None:
        # Each try has a name of its own: an export whose caller has gone goes on.
        self.exports += 1
        archive = self.archive.with_name(f"{self.archive.name}.{self.exports}")
        await volumes.export(self.cri.connection, "disk", str(archive))
        assert archive.stat().st_size > 0
        # What the pod has is there, whatever happened.
        assert [Path(one.path, "file").read_text() for one in await self._given()] == list(KINDS)

    async def _unpublish(self) -> None:
        await volumes.unpublish(self.cri.connection, "uid-pod")
        await until(self._is_unused)  # an export that goes on has one for itself

    async def _is_unused(self) -> bool:
        return not [one async for one in volumes.list_volumes(self.cri.connection) if one.uses]

    async def _remove_volumes(self) -> None:
        for left in self.archive.parent.glob(f"{self.archive.name}.*"):  # of exports that were cut off, too
            left.unlink()
        try:
            await volumes.remove_snapshot(self.cri.connection, "kept")
        except NotFound:
            pass  # by an earlier try
        for name in KINDS:
            try:
                await volumes.remove(self.cri.connection, name)
            except NotFound:
                continue
