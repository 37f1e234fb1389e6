"""The port `Checkpoints` in memory."""

from __future__ import annotations

from collections.abc import Mapping

from crib.model.container import ContainerRecord
from crib.model.errors import Broken, InvalidRequest
from crib.ports.checkpoints import SUFFIX, CheckpointFacts, CheckpointSource, Packing
from tests.fakes.failpoints import Failpoints
from tests.fakes.host import FakeHost


class FakeCheckpoints:
    """See Checkpoints. Failpoints are named as the methods."""

    def __init__(self, host: FakeHost, failpoints: Failpoints) -> None:
        self._host = host
        self._failpoints = failpoints

    async def pause(self, record: ContainerRecord) -> None:
        await self._failpoints.reach("pause", record.id)
        self._host.container(record).paused = True

    async def capture(self, record: ContainerRecord) -> None:
        if not self._host.container(record).paused:
            raise Broken(f"container {record.id} is not paused")
        self._host.captured.add(record.id)
        await self._failpoints.reach("capture", record.id)

    async def resume(self, record: ContainerRecord) -> None:
        await self._failpoints.reach("resume", record.id)
        if container := self._host.containers.get(record.id):
            container.paused = False

    async def pack(self, packing: Packing) -> None:
        if packing.record.id not in self._host.captured:
            raise Broken(f"container {packing.record.id} was not captured")
        self._host.archives[f"{packing.location}.partial"] = packing
        await self._failpoints.reach("pack", packing.record.id)

    async def publish(self, record: ContainerRecord, location: str) -> None:
        await self._failpoints.reach("publish", record.id)
        self._host.archives[location] = self._host.archives.pop(f"{location}.partial")

    async def withdraw(self, location: str) -> None:
        self._host.archives.pop(location, None)

    async def check_empty(self, directory: str) -> None:
        if any(location.startswith(f"{directory}/") for location in self._host.archives):
            raise InvalidRequest(f"{directory} is not empty", field="output_path")

    async def archives(self, directory: str) -> Mapping[str, str]:
        return {
            location.rpartition("/")[2].removesuffix(SUFFIX): location
            for location in self._host.archives
            if location.startswith(f"{directory}/")
        }

    async def inspect(self, source: CheckpointSource) -> CheckpointFacts:
        await self._failpoints.reach("inspect", source.path)
        packed = self._host.archives.get(source.path)
        if packed is None:
            raise InvalidRequest(f"checkpoint {source.path} is none", field="image.image")
        record = packed.record
        return CheckpointFacts(record.config.name, (record.image_id, record.config.image))

    async def discard(self, record: ContainerRecord, location: str) -> None:
        await self._failpoints.reach("discard", record.id)
        await self.resume(record)
        self._host.captured.discard(record.id)
        self._host.archives.pop(f"{location}.partial", None)
