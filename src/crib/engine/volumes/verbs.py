"""The verbs of volumes as the node offers them: each in a task of the keeper, which outlasts its caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.policy import PolicyGuard
from crib.engine.volumes.changes import VolumeChanges
from crib.engine.volumes.copies import Copies
from crib.engine.volumes.making import Created, Making, VolumeOrder
from crib.engine.volumes.parts import VolumeParts
from crib.engine.volumes.publishing import Published, Publishing, WantedVolume
from crib.engine.volumes.recovery import VolumeRecovery
from crib.engine.volumes.shelf import VolumeShelf, as_of_boot
from crib.engine.volumes.snapshots import Snapshots
from crib.engine.volumes.specs import abilities
from crib.engine.volumes.upkeep import Pruned, VolumeUpkeep
from crib.model.errors import InvalidRequest, NotFound
from crib.model.image import ImageRecord
from crib.model.volumes import PodOfUse, SnapshotRecord, VolumeName, VolumeRecord
from crib.ports.records import AllRecords

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VolumeFilter:
    """Which volumes are asked for; what is empty asks for all."""

    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    pod_uid: str = ""
    path: str = ""
    """On the host: the volume that is published there, or above it."""

    def has(self, row: VolumeRecord) -> bool:
        """Whether the volume is asked for."""
        return (
            (not self.namespace or row.name.namespace == self.namespace)
            and all(row.spec.labels.get(key) == value for key, value in self.labels)
            and (not self.pod_uid or bool(row.uses_of(self.pod_uid)))
            and (not self.path or any(_is_at(use.path, self.path) for use in row.uses))
        )


def _is_at(published: str, path: str) -> bool:
    return bool(published) and (path == published or path.startswith(f"{published}/"))


class NodeVolumes:
    """Volumes. What callers wait for goes on when they no longer do."""

    def __init__(self, core: Core, catalogue: Catalogue, policy: PolicyGuard) -> None:
        self._core = core
        self._catalogue = catalogue
        self._policy = policy
        self._shelf = VolumeShelf(core)
        self._making = Making(self._shelf, self._image)
        self._publishing = Publishing(self._shelf, self._making)
        self._snapshots = Snapshots(self._shelf)
        self._changes = VolumeChanges(self._shelf)
        self._copies = Copies(self._shelf, self._making, self._publishing)
        parts = VolumeParts(self._shelf, self._making, self._publishing, self._snapshots)
        self._recovery = VolumeRecovery(parts)
        self._upkeep = VolumeUpkeep(parts)
        self.check = self._upkeep.check
        self.usage = self._changes.usage
        self.drivers = core.ports.volumes.drivers.statuses
        self.driver_figures = core.ports.volumes.drivers.figures

    async def _image(self, name: str) -> ImageRecord:
        image = self._catalogue.find(name)
        if image is None:
            raise NotFound(f"image {name!r} is not on this node: pull it first", field="source")
        if not image.layers:
            text = f"image {name!r} has no layers: there is nothing to mount"
            raise InvalidRequest(text, field="source")
        await self._policy.before_run(image, name)
        return image

    def fill(self, rows: AllRecords) -> None:
        """Take over what was read at start."""
        self._core.volumes.fill(rows.volumes)
        self._core.snapshots.fill(rows.snapshots)

    def recover(self) -> None:
        """Begin what a start has to do. Nobody waits for it."""
        self._recovery.begin(self._upkeep.sweep)

    def list(self, wanted: VolumeFilter = VolumeFilter()) -> Iterator[VolumeRecord]:
        """By namespace and name; those in CREATING and REMOVING too, as they may be left over."""
        boot_id = self._core.facts.boot_id
        rows = (as_of_boot(row, boot_id) for row in sorted(self._shelf.volumes, key=lambda row: row.name))
        return filter(wanted.has, rows)

    def snapshots(self, namespace: str = "") -> Iterator[SnapshotRecord]:
        """By namespace and name."""
        rows = sorted(self._shelf.snapshots, key=lambda row: row.name)
        return (row for row in rows if not namespace or row.name.namespace == namespace)

    async def inspect(self, text: str) -> tuple[VolumeRecord, Sequence[SnapshotRecord], Sequence[str]]:
        """A volume, its snapshots, the oldest first, and what can be done with it. NotFound."""
        record = self._shelf.volume(text)
        mine = [row for row in self._shelf.snapshots if row.volume == record.id]
        can = abilities(await self._shelf.facts(record.spec))
        return record, sorted(mine, key=lambda row: row.created_at), can

    async def create(self, order: VolumeOrder) -> Created:
        """See Making."""
        return await self._work(f"create of volume {order.name}", self._making.create(order))

    async def remove(self, text: str) -> None:
        """See Making."""
        await self._work(f"removal of volume {text}", self._making.remove(text))

    async def publish(self, pod: PodOfUse, wanted: Sequence[WantedVolume]) -> Sequence[Published]:
        """See Publishing."""
        return await self._work(f"volumes of pod {pod}", self._publishing.publish(pod, wanted))

    async def unpublish(self, uid: str) -> Sequence[VolumeName]:
        """See Publishing."""
        work = self._publishing.unpublish(uid)
        return await self._work(f"end of volumes of the pod with uid {uid}", work)

    async def resize(self, text: str, capacity: int) -> VolumeRecord:
        """See Changes."""
        return await self._work(f"resize of volume {text}", self._changes.resize(text, capacity))

    async def snapshot(self, text: str, name: str) -> SnapshotRecord:
        """See Snapshots."""
        return await self._work(f"snapshot of volume {text}", self._snapshots.make(text, name))

    async def remove_snapshot(self, text: str) -> None:
        """See Snapshots."""
        await self._work(f"removal of snapshot {text}", self._snapshots.remove(text))

    async def export(self, text: str, path: str) -> int:
        """See Copies."""
        return await self._work(f"export of volume {text}", self._copies.export(text, path))

    async def load(self, order: VolumeOrder, path: str) -> tuple[Created, int]:
        """See Copies."""
        return await self._work(f"import of volume {order.name}", self._copies.load(order, path))

    async def prune(self, *, everything: bool, dry: bool) -> AsyncIterator[Pruned]:
        """See VolumeUpkeep."""
        async for pruned in self._upkeep.prune(everything=everything, dry=dry):
            yield pruned

    def users(self) -> Mapping[str, str]:
        """Pods that use volumes, NAMESPACE/NAME by their uid."""
        return {use.pod.uid: str(use.pod) for row in self._core.volumes for use in row.uses}

    def removals(self) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
        """Each snapshot and volume, with what removes it; those that are half-made or half-gone too."""
        for kept in self.snapshots():
            yield f"snapshot {kept.name}", partial(self._snapshots.remove_row, kept)
        for row in self.list():
            yield str(row.name), partial(self._making.remove_row, row)

    async def sweep(self, *, dry: bool = False) -> Sequence[str]:
        """Unmount and remove what there is of this boot and belongs to no record; its paths."""
        return await self._upkeep.sweep(dry=dry)

    async def _work(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        return await self._core.keeper.begin(name, work).wait()
