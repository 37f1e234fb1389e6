"""The port of kept pods: units on disk, a child that looks after them, and what it last told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from crib.backends.failures import ours, trying
from crib.backends.keeping.child import SupervisorChild
from crib.backends.keeping.units import read_unit, read_units, remove_unit, write_unit
from crib.model.errors import Broken, NotFound, WrongState
from crib.model.kept import KeepOrder, KeptContainer, KeptPod, WantOrder
from crib.wire.kept import MAX_MESSAGE, PodReport, Unit

T = TypeVar("T")


class SupervisedPods:
    """Pods whose units lie in one directory."""

    def __init__(self, directory: str, endpoint: str, *, enabled: bool = True) -> None:
        self._directory = directory
        self._enabled = enabled
        self._reports: dict[str, PodReport] = {}
        self._child = SupervisorChild(endpoint, directory, self._take)
        self._changing = asyncio.Lock()

    @property
    def problem(self) -> str:
        return self._child.problem

    async def begin(self, changed: Callable[[str], None]) -> None:
        """Keep up what is on disk; `changed` is told of problems with it, and of their end."""
        self._child.changed = changed
        if self._enabled and await self._file_work("looking for kept pods", self._any):
            self._child.want()

    async def close(self) -> None:
        """Leave the pods as they are."""
        await self._child.close()

    async def keep(self, order: KeepOrder) -> None:
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
            unit = await self._file_work(
                "reading a kept pod", lambda: read_unit(self._directory, order.namespace, order.name)
            )
            if unit is None:
                raise NotFound(f"pod {order.namespace}/{order.name} is not kept up")
            changed = msgspec.structs.replace(
                unit,
                wanted="run" if order.run else "stop",
                grace=order.grace,
                since=time.time_ns() if order.run else unit.since,
            )
            self._reports.pop(unit.uid, None)  # what was told is of another wish
            await self._write(changed)

    async def forget(self, namespace: str, name: str) -> None:
        async with self._changing:
            unit = await self._file_work(
                "reading a kept pod", lambda: read_unit(self._directory, namespace, name)
            )
            if unit is None:
                raise NotFound(f"pod {namespace}/{name} is not kept up")
            await self._file_work(
                "forgetting a kept pod", lambda: remove_unit(self._directory, namespace, name)
            )
            self._reports.pop(unit.uid, None)
        self._child.want()

    async def pods(self) -> Sequence[KeptPod]:
        units = await self._file_work("reading kept pods", self._units)
        return [_pod(unit, self._reports.get(unit.uid)) for unit in units]

    def _any(self) -> bool:
        return bool(self._units())

    def _units(self) -> list[Unit]:
        return read_units(self._directory)

    async def _write(self, unit: Unit) -> None:
        await self._file_work("writing a kept pod", lambda: write_unit(self._directory, unit))
        self._child.want()

    async def _file_work(self, what: str, work: Callable[[], T]) -> T:
        try:
            with trying(what):
                return await ours(f"{what} in {self._directory}", work)
        except ValueError as error:
            raise Broken(f"{what} in {self._directory}: {error}") from error

    def _take(self, report: PodReport) -> None:
        self._reports[report.uid] = report


def _pod(unit: Unit, report: PodReport | None) -> KeptPod:
    order = KeepOrder(unit.namespace, unit.name, unit.uid, unit.pods_dir, unit.manifest)
    told = report or PodReport(unit.uid, "")
    containers = tuple(
        KeptContainer(
            name=one.name,
            id=one.id,
            state=one.state,
            message=one.message[:MAX_MESSAGE],
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
