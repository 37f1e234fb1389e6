"""A driver of the tests' own, the kind of volume that asks it, and lives of its volumes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crib.backends.volumes.csi.volumes import CsiVolumes
from crib.model.driver_status import DriverFigures
from crib.model.paths import Paths
from crib.model.volume_settings import VolumeDriver
from crib.model.volumes import (
    CSI,
    PodOfUse,
    SnapshotRecord,
    SnapshotState,
    StageState,
    UseState,
    VolumeName,
    VolumeRecord,
    VolumeSpec,
    VolumeState,
    VolumeUse,
    new_snapshot_id,
    new_volume_id,
)
from tests.csi_driver import NAME, Fault, Options, TestDriver, serving

TIMEOUT = 30.0
"""Seconds that nothing here reaches, unless a test sets less."""


@dataclass
class CsiLab:
    """One driver under `root`, and what asks it."""

    root: Path
    options: Options = field(default_factory=Options)
    timeout: float = TIMEOUT
    pod_info: bool = False
    driver: TestDriver = field(init=False)
    kind: CsiVolumes = field(init=False)

    def __post_init__(self) -> None:
        self.socket = str(self.root / "csi.sock")
        self.paths = Paths(data=str(self.root / "data"), state=str(self.root / "state"))
        self.driver = TestDriver(self.root / "driver", self.options)
        self.kind = self.begin()

    def begin(self) -> CsiVolumes:
        """As the next daemon does."""
        return CsiVolumes(self.paths, self.drivers, DriverFigures())

    def drivers(self) -> Mapping[str, VolumeDriver]:
        return {NAME: VolumeDriver(self.socket, self.timeout, self.pod_info)}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TestDriver]:
        async with serving(self.driver, self.socket) as driver:
            yield driver

    def restarted(self) -> TestDriver:
        """The driver's next process: it knows what is in its books."""
        self.driver = TestDriver(self.root / "driver", self.options)
        return self.driver

    def fault(self, call: str, kind: str, **more: Any) -> Fault:
        one = Fault(call, kind, **more)
        self.options.faults.append(one)
        return one

    def life(self, **spec: Any) -> VolumeLife:
        return VolumeLife(self, volume_record(**spec))

    def snapshot_of(self, record: VolumeRecord) -> SnapshotRecord:
        return SnapshotRecord(
            id=new_snapshot_id(),
            name=VolumeName("default", "snap"),
            volume=record.id,
            volume_name=record.name.name,
            spec=record.spec,
            state=SnapshotState.CREATING,
            created_at=1,
        )

    @property
    def breaches(self) -> list[str]:
        return self.driver.books.breaches()

    @property
    def calls(self) -> list[str]:
        """All calls for volumes so far."""
        return [one for one in self.driver.books.calls() if "Get" not in one and one != "Probe"]


def volume_record(**spec: Any) -> VolumeRecord:
    return VolumeRecord(
        id=new_volume_id(),
        name=VolumeName("default", "db"),
        spec=VolumeSpec(CSI, driver=NAME, **spec),
        state=VolumeState.CREATING,
        created_at=1,
    )


def volume_use(pod: str = "web", *, read_only: bool = False) -> VolumeUse:
    return VolumeUse(
        PodOfUse(f"uid-{pod}", "default", pod, service_account="builder"),
        "data",
        read_only,
        UseState.PUBLISHING,
    )


@dataclass
class VolumeLife:
    """One volume, led as the verbs lead it: the intent is on record before each call."""

    lab: CsiLab
    record: VolumeRecord

    async def create(self, origin: SnapshotRecord | VolumeRecord | None = None) -> None:
        """Make it as that is."""
        if isinstance(origin, VolumeRecord):
            made = await self.lab.kind.clone(self.record, origin)
        else:
            made = await self.lab.kind.create(self.record, origin)
        self.record = replace(
            self.record,
            state=VolumeState.READY,
            handle=made.handle,
            context=made.context,
            capacity=made.capacity,
        )

    async def stage(self) -> None:
        self.record = replace(self.record, stage=StageState.STAGING)
        attachment = await self.lab.kind.stage(self.record)
        self.record = replace(self.record, stage=StageState.STAGED, attachment=attachment)

    async def publish(self, use: VolumeUse) -> str:
        self._put(use)
        path = await self.lab.kind.publish(self.record, use)
        self._put(replace(use, state=UseState.PUBLISHED, path=path))
        return path

    async def unpublish(self, use: VolumeUse) -> None:
        known = self.record.use(use.pod.uid, use.volume)
        if known is not None:
            self._put(replace(known, state=UseState.UNPUBLISHING))
        await self.lab.kind.unpublish(self.record, use)
        self.record = replace(self.record, uses=tuple(one for one in self.record.uses if one.key != use.key))

    async def unstage(self) -> None:
        self.record = replace(self.record, stage=StageState.UNSTAGING)
        await self.lab.kind.unstage(self.record)
        self.record = replace(self.record, stage=StageState.UNSTAGED, attachment={})

    async def delete(self) -> None:
        self.record = replace(self.record, state=VolumeState.REMOVING)
        await self.lab.kind.delete(self.record)

    async def tear_down(self) -> None:
        """Whatever there is of it."""
        for use in self.record.uses:
            await self.unpublish(use)
        if self.record.stage is not StageState.UNSTAGED:
            await self.unstage()
        await self.delete()

    def _put(self, use: VolumeUse) -> None:
        others = tuple(one for one in self.record.uses if one.key != use.key)
        self.record = replace(self.record, uses=(*others, use))
