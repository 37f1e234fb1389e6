"""The port of kept pods: units on disk, a child that looks after them, and what it last told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from crib.backends.failures import ours, trying
from crib.backends.keeping.changes import changes
from crib.backends.keeping.child import SupervisorChild
from crib.backends.keeping.units import read_unit, read_units, remove_unit, write_unit
from crib.model.errors import Broken, NotFound, WrongState
from crib.model.events import NodeEvent
from crib.model.kept import KeepOrder, KeptContainer, KeptPod, WantOrder
from crib.wire.kept import MAX_MESSAGE, PodReport, Unit


class SupervisedPods:
    """Pods whose units lie in one directory."""

    def __init__(self, directory: str, endpoint: str, *, enabled: bool = True) -> None:
        self._directory = directory
        self._enabled = enabled
        self._reports: dict[str, PodReport] = {}
        self._heard: set[str] = set()
        """Uids of which there was a report since the daemon started."""
        self._happened: Callable[[NodeEvent], None] = _nobody
        self._child = SupervisorChild(endpoint, directory, self._take)
        self._changing = asyncio.Lock()
        self._serving = False

    @property
    def problem(self) -> str:
        return self._child.problem

    async def begin(self, changed: Callable[[str], None], happened: Callable[[NodeEvent], None]) -> None:
        """Keep up what is on disk; `changed` is told of problems with it, and of their end.

        `happened` is told of restarts and the pauses before them, and of what probes find.
        """
        self._child.changed, self._happened = changed, happened
        self._serving = self._enabled
        if self._serving and await self._units():
            self._child.want()

    async def close(self) -> None:
        """Leave the pods as they are."""
        await self._child.close()

    async def keep_up(self, order: KeepOrder) -> None:
        if not self._enabled:
            raise WrongState("pods are not kept up here: kept_pods is false in the configuration")
        unit = Unit(
            namespace=order.namespace,
            name=order.name,
            uid=order.uid,
            pods_dir=order.pods_dir,
            manifest=order.manifest,
            since=time.time_ns(),
        )
        async with self._changing:
            await self._write(unit)

    async def want(self, order: WantOrder) -> None:
        async with self._changing:
            unit = await self._unit(order.namespace, order.name)
            changed = msgspec.structs.replace(
                unit,
                wanted="run" if order.run else "stop",
                grace=order.grace,
                since=time.time_ns() if order.run else unit.since,
            )
            self._reports.pop(unit.uid, None)  # what was told is of another wish
            await self._write(changed)

    async def leave_alone(self, namespace: str, name: str) -> None:
        async with self._changing:
            unit = await self._unit(namespace, name)
            what = f"forgetting pod {namespace}/{name} in {self._directory}"
            with trying(what):
                await ours(what, remove_unit, self._directory, namespace, name)
            self._reports.pop(unit.uid, None)
            self._heard.discard(unit.uid)
        self._tell()

    async def all_kept(self) -> Sequence[KeptPod]:
        return [_pod(unit, self._reports.get(unit.uid)) for unit in await self._units()]

    async def _units(self) -> list[Unit]:
        what = f"reading the kept pods in {self._directory}"
        with trying(what):
            return await ours(what, read_units, self._directory)

    async def _unit(self, namespace: str, name: str) -> Unit:
        what = f"reading pod {namespace}/{name} in {self._directory}"
        try:
            with trying(what):
                unit = await ours(what, read_unit, self._directory, namespace, name)
        except ValueError as error:
            raise Broken(f"{what}: {error}") from error
        if unit is None:
            raise NotFound(f"pod {namespace}/{name} is not kept up")
        return unit

    async def _write(self, unit: Unit) -> None:
        what = f"writing pod {unit.namespace}/{unit.name} in {self._directory}"
        with trying(what):
            await ours(what, write_unit, self._directory, unit)
        self._tell()

    def _tell(self) -> None:
        """A wipe without a daemon forgets pods, too, and has nobody to tell."""
        if self._serving:
            self._child.want()

    def _take(self, report: PodReport) -> None:
        is_first = report.uid not in self._heard
        self._heard.add(report.uid)
        before = self._reports.get(report.uid, None if is_first else report)
        self._reports[report.uid] = report
        for event in changes(before, report, time.time_ns()):
            self._happened(event)


def _nobody(event: NodeEvent) -> None: ...


def _pod(unit: Unit, report: PodReport | None) -> KeptPod:
    order = KeepOrder(unit.namespace, unit.name, unit.uid, unit.pods_dir, unit.manifest)
    told = report or PodReport(unit.uid, "")
    containers = tuple(
        KeptContainer(
            name=one.name,
            id=one.id,
            state=one.state,
            message=(one.message or one.probe)[:MAX_MESSAGE],
            ready=one.ready,
            restarts=one.restarts,
            exit_code=one.exit_code,
            until=one.until,
        )
        for one in told.containers
    )
    return KeptPod(
        order=order,
        wanted=unit.wanted == "run",
        since=unit.since,
        phase=told.phase,
        message=told.message[:MAX_MESSAGE],
        sandbox=told.sandbox,
        until=told.until,
        containers=containers,
    )
