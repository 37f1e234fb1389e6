"""The kind of volume whose volumes are made and mounted by drivers of the Container Storage Interface."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from crib.backends.failures import ours, trying
from crib.backends.volumes.csi.controller import ControllerHalf
from crib.backends.volumes.csi.driver import Driver
from crib.backends.volumes.csi.driver_facts import DriverFacts
from crib.backends.volumes.csi.errands import Errand, errand
from crib.backends.volumes.csi.node import NodeHalf
from crib.backends.volumes.csi.notes import GROWTH, DriverNotes
from crib.backends.volumes.csi.requests import handle_of, snapshot_name, volume_name
from crib.host.mount_table import is_mountpoint
from crib.host.threads import Job
from crib.model.driver_status import DriverFigures, DriverStatus
from crib.model.errors import CribError, InvalidRequest, NotBuilt, NotFound, WrongState
from crib.model.facts import Readiness
from crib.model.finding import Finding
from crib.model.paths import Paths
from crib.model.volume_settings import VolumeDriver
from crib.model.volumes import (
    SnapshotRecord,
    StageState,
    UseState,
    VolumePaths,
    VolumeRecord,
    VolumeSpec,
    VolumeUsage,
    VolumeUse,
    snapshot_path,
)
from crib.ports.volumes import KindFacts, Made, MadeSnapshot
from crib.tasks.groups import all_of

_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")


class CsiVolumes:
    """Volumes of all drivers of the settings."""

    def __init__(
        self, paths: Paths, drivers: Callable[[], Mapping[str, VolumeDriver]], figures: DriverFigures
    ) -> None:
        """`drivers`: those of the settings, as they are now."""
        self._paths = paths
        self._settings = drivers
        self._drivers: dict[str, Driver] = {}
        self.figures = figures

    def _driver(self, name: str) -> Driver:
        """By its name. WrongState where the settings have none of that name."""
        settings = self._settings().get(name)
        if settings is None:
            self._drivers.pop(name, None)
            raise WrongState(f"the settings have no driver {name!r} under volumes.drivers", field="driver")
        known = self._drivers.get(name)
        if known is None or known.settings.socket != settings.socket:
            known = self._drivers[name] = Driver(name, settings, self.figures)
        known.settings = settings
        return known

    async def _begin(self, record: VolumeRecord, *, secrets: bool = True) -> tuple[Driver, Errand]:
        """`secrets`: it cannot be done without them."""
        driver = self._driver(record.spec.driver)
        about = handle_of(record) or volume_name(record.id)
        return driver, await errand(about, driver.settings.timeout, record.spec.secrets, needed=secrets)

    async def _informed(
        self, record: VolumeRecord, *, secrets: bool = True
    ) -> tuple[Driver, Errand, DriverFacts]:
        """The same, and what the driver can."""
        driver, begun = await self._begin(record, secrets=secrets)
        return driver, begun, await driver.facts(begun)

    def _node(self, driver: Driver, begun: Errand, record: VolumeRecord) -> NodeHalf:
        return NodeHalf(driver, begun, record, VolumePaths(self._paths, record.id))

    def _notes(self, record: VolumeRecord) -> DriverNotes:
        return DriverNotes(VolumePaths(self._paths, record.id).lasting)

    async def readiness(self, driver: str = "") -> Readiness:
        """Of one driver, or of all."""
        statuses = await self.drivers() if not driver else [await self._status(driver)]
        bad = [one for one in statuses if not one.ready]
        if not bad:
            return Readiness(ready=True)
        return Readiness(False, "DriverNotReady", "; ".join(one.problem for one in bad))

    async def drivers(self) -> list[DriverStatus]:
        """Each driver of the settings, asked now."""
        return await all_of("driver's status", [self._status(name) for name in sorted(self._settings())])

    async def _status(self, name: str) -> DriverStatus:
        socket = ""
        try:
            driver = self._driver(name)
            socket = driver.socket
            facts = await driver.look(await errand("", driver.settings.timeout))
        except CribError as error:
            return self._counted(DriverStatus(name, socket, ready=False, problem=str(error)))
        able = {"plugin": facts.plugin, "controller": facts.controller, "node": facts.node}
        found = DriverStatus(
            name=name,
            socket=socket,
            ready=True,
            version=facts.version,
            capabilities=tuple(f"{half} {one}" for half, those in able.items() for one in sorted(those)),
            node_id=facts.node_id,
            most_volumes=facts.most_volumes,
        )
        return self._counted(found)

    def _counted(self, status: DriverStatus) -> DriverStatus:
        calls, failures, seconds = self.figures.of(status.name)
        return replace(status, calls=calls, failures=failures, seconds=seconds)

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        driver = self._driver(spec.driver)
        facts = await driver.facts(await errand("", driver.settings.timeout))
        grows = facts.expands_controller or facts.expands_node
        makes = facts.creates and not (spec.inline or spec.source)
        return KindFacts(
            block=not spec.inline,
            sizes="" if makes else f"driver {facts.name} does not make this volume",
            lasting=not spec.inline,
            expands=grows and not spec.inline,
            snapshots=facts.snapshots and not spec.inline,
            clones=facts.clones and not spec.inline,
            gives_group=facts.gives_group and not spec.block,
            stages=(facts.stages or facts.attaches) and not spec.inline,
        )

    async def check_spec(self, spec: VolumeSpec) -> None:
        if not spec.driver or spec.driver not in self._settings():
            raise InvalidRequest(
                f"the settings have no driver {spec.driver!r} under volumes.drivers", field="driver"
            )
        for key in spec.secrets:
            if not _KEY.fullmatch(key):
                raise InvalidRequest(
                    "a key has letters, digits, '-', '_' and '.' only", field=f"secrets.{key}"
                )
        if spec.block and (spec.fs_type or spec.mount_options):
            raise InvalidRequest("a raw device has no file system", field="fs_type")
        if spec.inline and (spec.block or spec.snapshot or spec.clone_of or spec.source):
            raise InvalidRequest("an inline volume is a new directory for one pod, and nothing else")

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        spec = record.spec
        if spec.inline:
            return Made(handle_of(record))
        driver, begun, facts = await self._informed(record)
        half = ControllerHalf(driver, begun)
        if not spec.source:
            return await half.create(record, snapshot, facts, self._notes(record))
        if facts.controller and (problem := await half.validate(record, spec.source, facts)):
            raise InvalidRequest(f"driver {driver.name}: {spec.source}: {problem}", field="source")
        return Made(spec.source)

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        driver, begun, facts = await self._informed(record)
        return await ControllerHalf(driver, begun).create(record, source, facts, self._notes(record))

    async def delete(self, record: VolumeRecord) -> None:
        if record.spec.inline:
            return
        driver, begun = await self._begin(record)
        half, notes = ControllerHalf(driver, begun), self._notes(record)
        await half.detach(notes)  # it may be attached since an earlier boot
        await notes.drop(GROWTH)
        if not record.spec.source:
            await half.delete(record.handle, notes)

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        driver, begun, facts = await self._informed(record)
        notes = self._notes(record)
        attachment = {}
        if facts.attaches:
            attachment = await ControllerHalf(driver, begun).attach(record, facts, notes)
        if facts.stages:
            await self._node(driver, begun, record).stage(facts, attachment, notes)
        return attachment

    async def unstage(self, record: VolumeRecord) -> None:
        driver, begun, facts = await self._informed(record)
        if facts.stages:
            await self._node(driver, begun, record).unstage()
        await ControllerHalf(driver, begun).detach(self._notes(record))

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        driver, begun, facts = await self._informed(record)
        must_stage = (facts.stages or facts.attaches) and not record.spec.inline
        if must_stage and record.stage is not StageState.STAGED:
            raise WrongState(f"driver {driver.name}: {begun.about} is not staged")
        return await self._node(driver, begun, record).publish(use, facts, self._notes(record))

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None:
        driver, begun = await self._begin(record, secrets=False)
        await self._node(driver, begun, record).unpublish(use)

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        driver, begun, facts = await self._informed(record, secrets=False)
        return await self._node(driver, begun, record).usage(facts)

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        driver, begun, facts = await self._informed(record)
        if not facts.expands_controller and not facts.expands_node:
            raise NotBuilt(f"driver {driver.name} expands no volumes")
        if facts.offline and (record.uses or record.stage is not StageState.UNSTAGED):
            raise WrongState(f"driver {driver.name} expands a volume only while no pod uses it")
        has, rest = capacity, True
        if facts.expands_controller:
            has, rest = await ControllerHalf(driver, begun).expand(record, capacity, facts)
        if rest and facts.expands_node:
            half = self._node(driver, begun, record)
            has = max(has, await half.expand(capacity, facts, self._notes(record)))
        return has

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        driver, begun, facts = await self._informed(record)
        if not facts.snapshots:
            raise NotBuilt(f"driver {driver.name} makes no snapshots")
        notes = DriverNotes(snapshot_path(self._paths, snapshot.id))
        return await ControllerHalf(driver, begun).snapshot(record.handle, snapshot, notes)

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None:
        driver = self._driver(snapshot.spec.driver)
        about = snapshot.handle or snapshot_name(snapshot.id)
        begun = await errand(about, driver.settings.timeout, snapshot.spec.secrets)
        notes = DriverNotes(snapshot_path(self._paths, snapshot.id))
        await ControllerHalf(driver, begun).delete_snapshot(snapshot.handle, notes)

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        findings = [
            Finding(
                "volumes",
                f"{record.name} of pod {use.pod}",
                f"nothing is mounted at {use.path}",
                "it is published again",
            )
            for use in record.uses
            if use.state is UseState.PUBLISHED and not record.spec.block and not await _is_mounted(use.path)
        ]
        try:
            driver, begun, facts = await self._informed(record)
            problem = (await self._node(driver, begun, record).usage(facts)).problem
            if facts.controller and record.handle and not (problem or record.spec.inline):
                problem = await ControllerHalf(driver, begun).validate(record, record.handle, facts)
        except NotFound as error:
            problem = f"its driver does not have it: {error}"
        except CribError as error:
            problem = str(error)
        if problem:
            findings.append(Finding("volumes", str(record.name), problem))
        return findings


async def _is_mounted(path: str) -> bool:
    with trying(what := f"looking for a mount at {path}"):
        return await ours(Job(what, path), is_mountpoint, path)
