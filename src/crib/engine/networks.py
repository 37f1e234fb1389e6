"""What is asked of pods' networks outside their start and end: lists, checks, repair, garbage.

A check of one pod runs under its sandbox's lock, so that it never sees a network that is being taken down. A
repair records the new attachment before it reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from crib.engine.core import Core
from crib.engine.transitions import pod_name
from crib.model.errors import CribError, WrongState
from crib.model.events import EventKind, NodeEvent
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.network import NetworkCheck, NetworkInfo, PodNetworkView
from crib.model.sandbox import NetworkAttachment, SandboxRecord, SandboxState
from crib.ports.networks import PodNetwork

_log = logging.getLogger(__name__)


LOOK_AFTER_SECONDS = 5.0
"""Between two looks at what pods share: as often as a kubelet asks for Status."""
REPAIRS = 3
"""In a row that leave something to find fault with; then the periodic check does no more."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """`problem` was found before and after a repair alike; empty when it was another one each time."""

    problem: str
    tries: int

    def allows(self, problem: str) -> bool:
        """Whether one more repair may help."""
        return problem != self.problem and self.tries < REPAIRS


class Networks:
    """The verbs; `begin` starts the periodic check that the settings ask for."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._changed = asyncio.Event()
        """Other settings hold: they may ask for checks at other times, or for none."""
        self._checks = False
        self._doubts: dict[SandboxId, _Doubt] = {}
        """Pods whose check found fault right after a repair: the periodic check leaves them alone in time."""
        self._looked_at = -math.inf
        """When Status last had what pods share looked at, on the monotonic clock."""

    def begin(self) -> None:
        """Look after what pods share, and after all pods every `network.check_interval` seconds, if any."""
        if shared := self._core.ports.networks.shared:
            self._core.keeper.serve(shared, self._look_after_for_ever(shared))
        self._core.followers.append(lambda _: self._begin_checks())
        self._begin_checks()

    def _begin_checks(self) -> None:
        self._changed.set()
        if self._core.settings.network.check_interval and not self._checks:
            self._checks = True
            self._core.keeper.serve("checks of networks", self._check_while_wanted())

    async def _look_after_for_ever(self, shared: str) -> None:
        """What somebody took away is put back also where no kubelet asks for Status.

        Without our rules pods reach what listens on the host's loopback alone.
        """
        while True:
            await asyncio.sleep(LOOK_AFTER_SECONDS)
            if time.monotonic() - self._looked_at < LOOK_AFTER_SECONDS:
                continue  # one look takes some 10 ms of CPU
            try:
                await self._core.ports.networks.readiness()
            except Exception:
                _log.exception("%s could not be looked at; the next look comes", shared)

    async def readiness(self) -> Readiness:
        """How what pods share is, for Status; what was taken away is put back."""
        self._looked_at = time.monotonic()
        return await self._core.ports.networks.readiness()

    async def list(self) -> Sequence[NetworkInfo]:
        """The node's networks."""
        return await self._core.ports.networks.networks()

    async def view(self, record: SandboxRecord) -> PodNetworkView:
        """One pod's network now; empty for a pod of the host's network, or one that has let go of its own."""
        if record.config.host_network or record.released:
            return PodNetworkView()
        return await self._core.ports.networks.view(self._core.pod_network(record))

    async def check(self, wanted: Sequence[str], *, repair: bool) -> AsyncIterator[NetworkCheck]:
        """Look at these pods (ids or beginnings), or at all that are ready. NotFound, WrongState."""
        records = list({record.id: record for record in map(self._core.sandbox, wanted)}.values())
        for record in records:
            if record.state is not SandboxState.READY or record.config.host_network:
                why = "is on the host's network" if record.config.host_network else "is not ready"
                raise WrongState(f"pod sandbox {record.id} {why}: there is no network to check")
        if not wanted:
            records = [
                row
                for row in self._core.sandboxes
                if row.state is SandboxState.READY and not row.config.host_network
            ]
        for record in records:
            found = await self._check(record, repair=repair)
            if found is not None:
                yield found
            elif wanted:
                yield NetworkCheck(record.id, pod_name(record), "the pod has ended meanwhile")

    async def collect(self, *, everything: bool) -> Sequence[str]:
        """Release what is held for pods that are not there."""
        attached = {row.id for row in self._core.sandboxes if not row.released}
        work = self._core.ports.networks.sweep(attached, everything=everything)
        released = await self._core.keeper.begin("network garbage", work).wait()
        for what in released:
            self._core.history.happened(EventKind.NETWORK, "released", "network", what)
        return released

    async def garbage(self) -> Sequence[str]:
        """What `collect` would certainly release, in the same words."""
        attached = {row.id for row in self._core.sandboxes if not row.released}
        return await self._core.ports.networks.sweep(attached, dry=True)

    async def remove(self) -> None:
        """Remove what pods share. WrongState while one is attached, or where it is not ours."""
        if not self._core.ports.networks.shared:
            mode = self._core.settings.network.mode
            raise WrongState(f"network.mode is {mode}: there is no built-in bridge here")
        attached = [row for row in self._core.sandboxes if not row.released and not row.config.host_network]
        if attached:
            some = ", ".join(row.id[:13] for row in attached[:5])
            raise WrongState(f"pods are attached ({len(attached)}): {some}")
        await self._core.keeper.begin("network removal", self._core.ports.networks.dismantle()).wait()
        self._core.history.happened(EventKind.NETWORK, "removed", "network")

    async def _check(self, record: SandboxRecord, *, repair: bool) -> NetworkCheck | None:
        """A caller that goes away ends its waiting, not the check."""
        work = self._check_one(record, repair=repair)
        return await self._core.keeper.begin("network check", work, record.id).wait()

    async def _check_one(self, known: SandboxRecord, *, repair: bool) -> NetworkCheck | None:
        """None when the pod is ready no more."""
        core = self._core
        async with core.locks.of(known.id):
            record = core.sandboxes.get(known.id)
            if record is None or record.state is not SandboxState.READY:
                return None
            pod = core.pod_network(record)
            found = NetworkCheck(record.id, pod_name(record), "")
            if pod.inside:  # it looks damaged, and a repair would take the pod's network away
                return found
            try:
                with core.figures.network.timed("check"):
                    found = replace(found, problem=await core.ports.networks.check(pod))
            except CribError as error:
                return replace(found, problem=f"it cannot be checked: {error}")
            if not found.problem or not repair:
                return found
            _log.warning("pod %s: its network is repaired: %s", record.id, found.problem)
            try:
                stage = core.timeline.of(record.id)
                with stage("RepairNetwork"), core.figures.network.timed("repair"):
                    attachment = await core.ports.networks.repair(pod, stage)
            except CribError as error:
                return replace(found, repair_error=str(error))
            self._record(record.id, attachment)
            names = record.id, record.id, pod_name(record)
            core.history.tell(
                NodeEvent(EventKind.NETWORK, "repaired", core.clock(), *names, text=found.problem)
            )
            return await self._looked_at_again(pod, found)

    async def _looked_at_again(self, pod: PodNetwork, found: NetworkCheck) -> NetworkCheck:
        """Some plugins' CHECK finds fault with what their ADD has just made: that is no damage to repair."""
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if self._core.sandboxes.get(key)}
        try:
            left = await self._core.ports.networks.check(pod)
        except CribError as error:
            left = f"it cannot be checked: {error}"
        if not left:
            self._doubts.pop(pod.id, None)
            return replace(found, repaired=True)
        # Another text may be of new damage, which came between: that is tried a few times.
        tries = self._doubts[pod.id].tries if pod.id in self._doubts else 0
        self._doubts[pod.id] = _Doubt(left if left == found.problem else "", tries + 1)
        return replace(found, problem=left, repair_error=f"made again, but still: {left}")

    def _record(self, sandbox: SandboxId, attachment: NetworkAttachment) -> None:
        """The state may have changed meanwhile: a dead pod is noticed without this lock."""
        record = self._core.sandboxes.get(sandbox)
        if record is None or record.network is None:
            return
        if attachment.addresses != record.network.addresses:
            before, now = ", ".join(record.network.addresses), ", ".join(attachment.addresses)
            _log.warning("pod %s: its addresses were %s and are %s now", sandbox, before, now)
        self._core.sandboxes.put(replace(record, network=attachment))

    async def _check_while_wanted(self) -> None:
        while interval := self._core.settings.network.check_interval:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._changed.wait()
                continue
            try:
                async for found in self.check((), repair=False):
                    if found.problem:
                        await self._attend(found, repair=self._core.settings.network.repair)
            except Exception:
                _log.exception("a check of all networks failed; the next one follows")
        self._checks = False

    async def _attend(self, found: NetworkCheck, *, repair: bool) -> None:
        if not repair:
            _log.error("pod %s: network: %s", found.sandbox, found.problem)
        elif (doubt := self._doubts.get(found.sandbox)) is None or doubt.allows(found.problem):
            record = self._core.sandboxes.get(found.sandbox)
            outcome = await self._check(record, repair=True) if record is not None else None
            if outcome is not None and outcome.repair_error:
                _log.error("pod %s: network: %s", outcome.sandbox, outcome.repair_error)
