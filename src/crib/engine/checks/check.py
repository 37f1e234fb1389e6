"""`crib check`: everything of this node, by areas. A repair works through the verbs' teardowns and sweeps.

Work in progress is no finding:

* Rows with a verb under way are left out while the daemon works. What was found of the others is looked at
  again a moment later.
* Whoever lists leftovers looks at the disk first and at the records afterwards: a row exists before anything
  is made for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from crib.engine.checks.images import ImageFindings
from crib.engine.checks.world import WorldFindings
from crib.engine.core import Core
from crib.engine.mending import mended
from crib.engine.networks import Networks
from crib.engine.sandboxes.stop import StopSandbox
from crib.engine.volumes.verbs import NodeVolumes
from crib.model.errors import CribError
from crib.model.finding import Finding
from crib.model.sandbox import SandboxState

_Look = Callable[[bool], AsyncIterator[Finding]]


class CheckNode:
    """The verb. Until the node has started it mends nothing: the start does, and then this looks again."""

    def __init__(
        self,
        core: Core,
        images: ImageFindings,
        networks: Networks,
        volumes: NodeVolumes,
        stop: StopSandbox,
    ) -> None:
        self.is_live = False
        """Whether verbs may be under way, and watchers at work."""
        self._core = core
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._world = WorldFindings(core, stop)

    async def __call__(self, *, repair: bool, quick: bool = False) -> AsyncIterator[Finding]:
        """Each thing that is wrong, or worth telling. `quick` leaves the content of layers unread."""
        for area, look in self._areas(quick=quick):
            try:
                async for found in look(repair):
                    yield found
            except (CribError, OSError) as error:  # of a disk that does not answer, or has lost a directory
                yield Finding(area, "", f"cannot be checked: {error}")

    def _areas(self, *, quick: bool) -> list[tuple[str, _Look]]:
        return [
            ("node", lambda repair: self._notices()),
            ("node", lambda repair: self._handlers()),
            ("node", lambda repair: self._space()),
            ("records", lambda repair: self._records()),
            ("containers", lambda repair: self._world.containers(is_live=self.is_live, repair=repair)),
            ("pods", lambda repair: self._world.pods(is_live=self.is_live, repair=repair)),
            ("leftovers", lambda repair: self._world.leftovers(is_live=self.is_live, repair=repair)),
            ("images", lambda repair: self._images.layers(repair=repair, quick=quick)),
            ("images", lambda repair: self._images.documents(repair=repair)),
            ("images", lambda repair: self._images.unreferenced(repair=repair)),
            ("network", lambda repair: self._pods_networks(repair=repair)),
            ("network", lambda repair: self._garbage(repair=repair)),
            ("volumes", lambda repair: self._volumes.check(repair=repair and self.is_live)),
            ("logs", lambda repair: self._world.logs()),
        ]

    async def _notices(self) -> AsyncIterator[Finding]:
        """Faults count; what is over and done with is only told."""
        for notice in self._core.notices:
            yield Finding("node", notice.subject, notice.text, is_note=not notice.is_fault)

    async def _handlers(self) -> AsyncIterator[Finding]:
        """Those that can run nothing: a fault of the default one only, as others may not be wanted here."""
        for name, handler in self._core.ports.handlers.items():
            if not handler.facts.version:
                is_default = name == self._core.settings.default_handler
                text = f"cannot be used: {handler.facts.problem}"
                yield Finding("node", f"handler {name}", text, is_note=not is_default)

    async def _space(self) -> AsyncIterator[Finding]:
        space, least = await self._core.ports.images.space(), self._core.settings.images.transfer.min_free
        if space.free < least:
            text = f"{space.free} bytes are free, images.min_free is {least}: no image can be pulled"
            yield Finding("node", self._core.settings.data, text)

    async def _records(self) -> AsyncIterator[Finding]:
        for found in await self._core.ports.records.check():
            yield found

    async def _pods_networks(self, *, repair: bool) -> AsyncIterator[Finding]:
        """Of ready pods. Those of an earlier boot have no network any more: they are reported as pods."""
        core = self._core
        wanted = [
            row.id
            for row in core.sandboxes
            if row.state is SandboxState.READY
            and not row.config.host_network
            and not core.locks.of(row.id).locked()  # a verb is at it, which may hang
        ]
        if not wanted:
            return
        async for check in self._networks.check(wanted, repair=repair and self.is_live):
            row = core.sandboxes.get(check.sandbox)
            if row is None or row.state is not SandboxState.READY:
                continue
            if check.problem and row.boot_id == core.facts.boot_id:
                subject = f"{check.sandbox} ({check.pod})"
                found = Finding("network", subject, check.problem, "its network is made again")
                yield replace(found, mended=check.repaired, mend_error=check.repair_error)

    async def _garbage(self, *, repair: bool) -> AsyncIterator[Finding]:
        found = [
            Finding("network", what, "belongs to no pod", "it is released")
            for what in await self._networks.garbage()
        ]
        if found and repair and self.is_live:
            found = await mended(self._core, found, self._networks.collect(everything=False))
        for one in found:
            yield one
