"""Volumes in memory: a kind that notes what is there, archives and a ground of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from crib.model.driver_status import DriverFigures, DriverStatus
from crib.model.errors import AlreadyExists, InvalidRequest, WrongState
from crib.model.facts import Readiness
from crib.model.finding import Finding
from crib.model.volumes import (
    SnapshotRecord,
    StageState,
    VolumeDescription,
    VolumeId,
    VolumeRecord,
    VolumeSpec,
    VolumeUsage,
    VolumeUse,
)
from crib.ports.volumes import KindFacts, Leftover, Made, MadeSnapshot, VolumePorts
from tests.fakes.failpoints import Failpoints

PATH = "/volumes"


@dataclass
class FakeVolume:
    """What a kind has of one volume."""

    capacity: int
    files: dict[str, bytes] = field(default_factory=dict)
    staged: bool = False
    published: set[str] = field(default_factory=set)
    """Keys of uses."""


class FakeVolumes:
    """A kind. Failpoints: create, clone, delete, stage, unstage, publish, unpublish, usage, expand, snapshot,
    delete_snapshot, check, facts. `can` may be set. What was mounted is gone after `reboot`.
    """

    def __init__(self, can: KindFacts | None = None) -> None:
        self.failpoints = Failpoints()
        self.can = can or KindFacts(block=True, expands=True, snapshots=True)
        self.there: dict[str, FakeVolume] = {}
        self.kept: dict[str, FakeVolume] = {}
        """Snapshots."""
        self.findings: list[Finding] = []

    def reboot(self) -> None:
        """Nothing is mounted any more."""
        for volume in self.there.values():
            volume.staged = False
            volume.published.clear()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is mounted."""
        return not any(volume.staged or volume.published for volume in self.there.values())

    async def readiness(self, driver: str = "") -> Readiness:
        return Readiness(ready=True)

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        await self.failpoints.reach("facts")
        return self.can

    async def check_spec(self, spec: VolumeSpec) -> None:
        if "wrong" in spec.parameters:
            raise InvalidRequest("is not known", field="parameters.wrong")

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        volume = self.there.setdefault(record.id, FakeVolume(record.spec.capacity))
        await self.failpoints.reach("create", record.name.name)
        if snapshot is not None:
            volume.files = dict(self.kept[snapshot.id].files)
        return Made(f"handle-{record.name}", {"made": "yes"}, record.spec.capacity)

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        volume = self.there.setdefault(record.id, FakeVolume(record.spec.capacity))
        await self.failpoints.reach("clone", record.name.name)
        volume.files = dict(self.there[source.id].files)
        return Made(f"handle-{record.name}", {"made": "yes"}, record.spec.capacity)

    async def delete(self, record: VolumeRecord) -> None:
        await self.failpoints.reach("delete", record.name.name)
        volume = self.there.get(record.id)
        assert volume is None or not (volume.staged or volume.published)
        self.there.pop(record.id, None)

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        assert record.stage is StageState.STAGING
        self.there[record.id].staged = True
        await self.failpoints.reach("stage", record.name.name)
        return {"staged": "yes"}

    async def unstage(self, record: VolumeRecord) -> None:
        await self.failpoints.reach("unstage", record.name.name)
        if (volume := self.there.get(record.id)) is not None:
            assert not volume.published
            volume.staged = False

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        volume = self.there[record.id]
        if self.can.stages and not volume.staged:
            raise WrongState("it is not staged")
        volume.published.add(use.key)
        await self.failpoints.reach("publish", record.name.name)
        return f"{PATH}/{record.id}/{use.key}"

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None:
        await self.failpoints.reach("unpublish", record.name.name)
        if (volume := self.there.get(record.id)) is not None:
            volume.published.discard(use.key)

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        await self.failpoints.reach("usage", record.name.name)
        volume = self.there[record.id]
        return VolumeUsage(total=volume.capacity, used=sum(map(len, volume.files.values())))

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        await self.failpoints.reach("expand", record.name.name)
        self.there[record.id].capacity = capacity
        return capacity

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        volume = self.there[record.id]
        self.kept[snapshot.id] = replace(volume, files=dict(volume.files), published=set())
        await self.failpoints.reach("snapshot", record.name.name)
        return MadeSnapshot(f"handle-{snapshot.name}", sum(map(len, volume.files.values())))

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None:
        await self.failpoints.reach("delete_snapshot", snapshot.name.name)
        self.kept.pop(snapshot.id, None)

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        await self.failpoints.reach("check", record.name.name)
        return [one for one in self.findings if one.subject == str(record.name)]


class FakeArchives:
    """Archives by their paths; what a directory holds is known of those that were read into."""

    def __init__(self) -> None:
        self.failpoints = Failpoints()
        self.archives: dict[str, str] = {}
        """By path: the directory that was written."""
        self.descriptions: dict[str, VolumeDescription] = {}
        """By path: what the archive says of its volume."""
        self.filled: dict[str, str] = {}
        """By directory: the archive."""

    async def write(self, directory: str, archive: str, description: VolumeDescription) -> int:
        await self.failpoints.reach("write", archive)
        if archive in self.archives:
            raise AlreadyExists(f"{archive} is there already")
        self.archives[archive] = directory
        self.descriptions[archive] = description
        return 100

    async def describe(self, archive: str) -> VolumeDescription | None:
        await self.failpoints.reach("describe", archive)
        return self.descriptions.get(archive)

    async def read(self, archive: str, directory: str) -> int:
        await self.failpoints.reach("read", archive)
        self.filled[directory] = archive
        return 50


class FakeGround:
    """`left` and `missing` may be set."""

    def __init__(self) -> None:
        self.failpoints = Failpoints()
        self.left: list[Leftover] = []
        self.missing: set[str] = set()

    async def leftovers(self) -> Sequence[Leftover]:
        await self.failpoints.reach("leftovers")
        return tuple(self.left)

    async def tidy(self, volume: VolumeId) -> None:
        await self.failpoints.reach("tidy", volume)

    async def clear(self, leftover: Leftover) -> None:
        await self.failpoints.reach("clear", leftover.path)
        self.left.remove(leftover)

    async def gone(self, directories: Collection[str]) -> Collection[str]:
        await self.failpoints.reach("gone")
        return self.missing.intersection(directories)


class FakeDrivers:
    """`known` may be set."""

    def __init__(self) -> None:
        self.figures = DriverFigures()
        self.known: list[DriverStatus] = []

    async def statuses(self) -> Sequence[DriverStatus]:
        return tuple(self.known)


class FakeVolumePorts:
    """All of it; `kind` is what the kinds `local` and `csi` are."""

    def __init__(self) -> None:
        self.kind = FakeVolumes()
        self.archives = FakeArchives()
        self.ground = FakeGround()
        self.drivers = FakeDrivers()

    def ports(self) -> VolumePorts:
        kinds = dict.fromkeys(("local", "tmpfs", "image", "block", "csi"), self.kind)
        return VolumePorts(kinds, self.archives, self.ground, self.drivers)
