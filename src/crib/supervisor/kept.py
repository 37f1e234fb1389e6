"""All pods and Jobs that are kept up: one keeper for each unit, begun and ended as the units change."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from crib.client import events
from crib.client.errors import ClientError
from crib.client.workloads.site import read_site
from crib.manifest.faults import ManifestError
from crib.manifest.jobs import JOB_UID
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, JobPlan
from crib.supervisor.job_keeper import JobKeeper
from crib.supervisor.keeper import RETRY, PodKeeper, Surroundings
from crib.wire.kept import MAX_UNIT, PodReport, Unit, decode_unit

if TYPE_CHECKING:
    from crib.client.connection import Connection
    from crib.manifest.plan import PodPlan


@dataclass(slots=True)
class _Kept:
    unit: Unit
    task: asyncio.Task[None]
    keeper: PodKeeper | JobKeeper | None


class KeptUnits:
    """The pods whose units are in one directory. Their pods' directories are the units' own."""

    def __init__(self, connection: Connection, directory: str, surroundings: Surroundings) -> None:
        self._connection = connection
        self._directory = directory
        self._around = surroundings
        self._kept: dict[str, _Kept] = {}
        self._events = asyncio.get_running_loop().create_task(self._follow_events())

    def __len__(self) -> int:
        return len(self._kept)

    async def look(self) -> None:
        """Read the units, and do what they say from now on."""
        units = await asyncio.to_thread(self._read)
        for uid in [uid for uid, kept in self._kept.items() if units.get(uid) != kept.unit]:
            await self._leave(uid)
        for uid, unit in units.items():
            if uid not in self._kept:
                self._begin(unit)

    async def close(self) -> None:
        """Leave all pods as they are."""
        self._events.cancel()
        await asyncio.gather(*(self._leave(uid) for uid in list(self._kept)))

    def _read(self) -> dict[str, Unit]:
        found: dict[str, Unit] = {}
        for name in sorted(os.listdir(self._directory)):
            if name.endswith(".json") and not name.startswith("."):
                # a file that is no unit is the daemon's to tell of
                with contextlib.suppress(FileNotFoundError, ValueError):
                    with open(os.path.join(self._directory, name), "rb") as file:
                        unit = decode_unit(file.read(MAX_UNIT))
                    found[unit.uid] = unit
        return found

    def _begin(self, unit: Unit) -> None:
        keeper: PodKeeper | JobKeeper | None = None
        try:
            plan = _plan_of(unit)
        except (ManifestError, LookupError) as error:
            self._around.listener.note(f"{unit.namespace}/{unit.name}: {error}")
            self._around.told(PodReport(unit.uid, "Failed", f"its manifest cannot be used: {error}"))
            work = _nothing()
        else:
            around = replace(self._around, dirs=Dirs(unit.pods_dir))
            begun = unit.since / 1e9
            if isinstance(plan, JobPlan):
                keeper = JobKeeper(self._connection, plan, around, begun)
            else:
                keeper = PodKeeper(self._connection, plan, around, begun)
            work = keeper.run_on() if unit.wanted == "run" else keeper.stop(unit.grace)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(partial(self._has_ended, unit))
        self._kept[unit.uid] = _Kept(unit, task, keeper)

    def _has_ended(self, unit: Unit, task: asyncio.Task[None]) -> None:
        """A fault of ours is told, and does not hinder the other pods."""
        if not task.cancelled() and (error := task.exception()) is not None:
            text = f"its keeper failed: {type(error).__name__}: {error}"
            self._around.listener.note(f"{unit.namespace}/{unit.name}: {text}")
            self._around.told(PodReport(unit.uid, "Failed", text))

    async def _leave(self, uid: str) -> None:
        kept = self._kept.pop(uid)
        kept.task.cancel()
        await asyncio.wait([kept.task])

    async def _follow_events(self) -> None:
        """Have a pod looked at as soon as something happened to it."""
        while True:
            with contextlib.suppress(ClientError):
                async for event in events.subscribe(self._connection):
                    pod = event.pod_sandbox_status
                    kept = self._kept.get(pod.labels.get(JOB_UID) or pod.metadata.uid)
                    if kept is not None and kept.keeper is not None:
                        kept.keeper.stir()
            await asyncio.sleep(RETRY)


async def _nothing() -> None: ...


def _plan_of(unit: Unit) -> PodPlan | JobPlan:
    """ManifestError; LookupError when the manifest does not come to the unit's pod or Job."""
    plans = read_plans(unit.manifest, read_site(unit.pods_dir), lambda: unit.uid)
    found: list[PodPlan | JobPlan] = [*plans.jobs, *plans.alone()]
    for plan in found:
        if (plan.uid, plan.namespace, plan.name) == (unit.uid, unit.namespace, unit.name):
            return plan
    raise LookupError(f"it has no pod {unit.namespace}/{unit.name} with the uid {unit.uid}")
