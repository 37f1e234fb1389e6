"""What takes how much of the disk: layers shared and own, writable layers, logs, records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.model.container import ContainerRecord, ContainerState
from crib.model.disk import ContainerUse, DiskUse, ImageUse, LayerUse, StoredLayers
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.model.image import FilesystemUsage
from crib.model.lifecycle import is_listed
from crib.tasks.groups import Beside, all_of


class MeasureDisk:
    """Measures when it is asked: every layer, and what each container has written."""

    def __init__(self, core: Core, catalogue: Catalogue) -> None:
        self._core = core
        self._catalogue = catalogue

    async def __call__(self) -> DiskUse:
        ports = self._core.ports
        rows = [row for row in self._core.containers if is_listed(row)]
        async with Beside() as beside:
            stored = beside.start("sizes of layers", ports.images.stored())
            space = beside.start("space of the disk", ports.images.space())
            records = beside.start("sizes of records", ports.records.sizes())
            writable = beside.start("sizes of writable layers", self._writable(rows))
            logs = beside.start("sizes of logs", self._logs(rows))
            layers = await stored
            return DiskUse(
                layers=self._layers(layers),
                images=self._images(layers),
                containers=self._containers(rows, await writable, await logs),
                half_made=layers.half_made,
                records=await records,
                space=await space,
            )

    def _layers(self, stored: StoredLayers) -> tuple[LayerUse, ...]:
        images = Counter(key for image in self._catalogue for key in {one.diff_id for one in image.layers})
        containers = Counter(key for row in self._core.containers for key in row.held_layers)
        containers.update(key for row in self._core.volumes for key in row.layers)
        pinned = {one.diff_id for image in self._catalogue if image.pinned for one in image.layers}
        kept = pinned | self._catalogue.doubted
        return tuple(
            LayerUse(key, size, images[key], containers[key], not containers[key] and key not in kept)
            for key, size in sorted(stored.layers.items(), key=lambda one: -one[1])
        )

    def _images(self, stored: StoredLayers) -> tuple[ImageUse, ...]:
        holders = Counter(key for image in self._catalogue for key in {one.diff_id for one in image.layers})
        containers = Counter(key for row in self._core.containers for key in row.held_images)
        containers.update(row.image_id for row in self._core.volumes if row.image_id is not None)
        found = []
        for image in self._catalogue:
            sizes = {one.diff_id: stored.layers.get(one.diff_id, 0) for one in image.layers}
            own = sum(size for key, size in sizes.items() if holders[key] == 1)
            names = image.tags or image.digests
            use = ImageUse(image.id, names, sum(sizes.values()), own, containers[image.id], image.pinned)
            found.append(use)
        return tuple(sorted(found, key=lambda image: -image.size))

    def _containers(
        self,
        rows: Sequence[ContainerRecord],
        writable: Mapping[ContainerId, FilesystemUsage],
        logs: Mapping[ContainerId, int],
    ) -> tuple[ContainerUse, ...]:
        return tuple(self._container(row, writable.get(row.id), logs.get(row.id)) for row in rows)

    def _container(
        self, row: ContainerRecord, layer: FilesystemUsage | None, logs: int | None
    ) -> ContainerUse:
        return ContainerUse(
            id=row.id,
            sandbox_id=row.sandbox_id,
            pod=self._core.pod_of(row),
            name=row.config.name,
            image_id=row.image_id,
            has_ended=row.state is ContainerState.EXITED,
            writable=None if layer is None else layer.used_bytes,
            inodes=None if layer is None else layer.inodes_used,
            logs=logs,
        )

    async def _writable(self, rows: Sequence[ContainerRecord]) -> Mapping[ContainerId, FilesystemUsage]:
        found: dict[ContainerId, FilesystemUsage] = {}
        for handler, asked in self._core.by_caretaker(self._core.with_pods(rows), lambda one: one[1]):
            try:
                usages = await handler.statistics.containers(asked)
            except CribError:
                continue  # no thread is free for it
            for (row, _), usage in zip(asked, usages, strict=True):
                if usage.writable_layer is not None:
                    found[row.id] = usage.writable_layer
        return found

    async def _logs(self, rows: Sequence[ContainerRecord]) -> Mapping[ContainerId, int]:
        by_pod: dict[str, list[ContainerRecord]] = {}
        for row in rows:
            by_pod.setdefault(row.sandbox_id, []).append(row)
        handlers = [self._core.caretaker(self._core.sandboxes.get(pod)) for pod in by_pod]
        found = await all_of(
            "sizes of a pod's logs",
            (handler.logs.sizes(of_pod) for handler, of_pod in zip(handlers, by_pod.values(), strict=True)),
        )
        return {key: size for sizes in found for key, size in sizes.items()}
