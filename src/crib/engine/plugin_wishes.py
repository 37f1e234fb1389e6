"""What node plugins want done, carried out as it is for clients; and what they learn when they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from crib.engine.containers.stop import StopContainer
from crib.engine.containers.update import UpdateContainer
from crib.engine.core import Core
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import CribError, NotFound, TimedOut, Unavailable
from crib.model.ids import ContainerId
from crib.model.lifecycle import ContainerVerb, is_listed, move_container
from crib.model.plugins import (
    ContainerUpdate,
    Eviction,
    FailedUpdate,
    PluginOrders,
    ShownContainer,
    ShownNode,
    ShownPod,
)

_log = logging.getLogger(__name__)

UPDATE_LIMIT = 10.0
"""Seconds for one update that a plugin wants: the container may be busy with something that hangs."""
MOST_OVERDUE = 2
"""Of the updates that a plugin wants at once. Then something hangs, and the others are not tried: a verb or
the plugin waits for all of them.
"""
USUAL_GRACE = 30.0
"""Seconds that a container has to end when its pod does not say (Kubernetes' default)."""
_GRACE = "io.kubernetes.pod.terminationGracePeriod"
"""Annotation by which a kubelet tells it (kuberuntime, labels.go)."""
SHOWN_AT_ONCE = 50
"""Pods and containers that are looked up before others get a turn on the loop."""
_KNOWN = (ContainerState.CREATED, ContainerState.RUNNING)


class PluginWishes:
    """See ports.PluginHost."""

    def __init__(self, core: Core, update: UpdateContainer, stop: StopContainer) -> None:
        self._core = core
        self._update = update
        self._stop = stop
        self._evicting: set[ContainerId] = set()
        core.plugins.carry_out = self.carry_out

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[ShownNode]:
        """Containers that have ended are left out, unless plugins are still to hear of their end."""
        core = self._core
        async with core.plugins.gate.alone():
            pods: list[ShownPod] = []
            containers: list[ShownContainer] = []
            for number, pod in enumerate([row for row in core.sandboxes if is_listed(row)]):
                if number % SHOWN_AT_ONCE == SHOWN_AT_ONCE - 1:
                    await asyncio.sleep(0)
                pods.append(core.plugins.showing.pod(pod))
                containers += [
                    core.plugins.showing.container(row, pod)
                    for row in core.containers_of(pod.id)
                    if row.state in _KNOWN or row.id in core.plugins.untold_ends
                ]
            yield ShownNode(tuple(pods), tuple(containers))

    def note(self, subject: str, text: str) -> None:
        self._core.notices.follow(subject)(text)

    async def update(self, updates: Sequence[ContainerUpdate]) -> Sequence[FailedUpdate]:
        failed = []
        overdue = 0
        for update in updates:
            try:
                if overdue == MOST_OVERDUE:
                    raise Unavailable(f"it was not tried: {overdue} updates before it took too long")
                await self._one_update(update)
            except CribError as error:
                overdue += isinstance(error, TimedOut)
                _log.log(
                    logging.INFO if update.ignore_failure else logging.WARNING,
                    "NRI plugin %s wants other limits for container %s: %s",
                    update.plugin,
                    update.container,
                    error,
                )
                failed.append(FailedUpdate(update, str(error)))
        return failed

    def _container(self, container: ContainerId) -> ContainerRecord:
        """By its whole id: what begins like it may be another one. NotFound."""
        record = self._core.containers.get(container)
        if record is None or not is_listed(record):
            raise NotFound(f"there is no container {container!r}")
        return record

    async def _one_update(self, update: ContainerUpdate) -> None:
        record = self._container(update.container)
        stage = self._core.timeline.of(record.sandbox_id)
        work = self._update.by_plugin(record.id, update.change)
        begun = self._core.keeper.begin("update container", work, record.id)
        try:
            with stage(f"NRI {update.plugin}", "update"):
                async with asyncio.timeout(UPDATE_LIMIT):
                    await begun.wait()
        except TimeoutError:
            begun.task.cancel()
            raise TimedOut(f"it took more than {UPDATE_LIMIT:.0f} s") from None

    async def evict(self, evictions: Sequence[Eviction]) -> None:
        for eviction in evictions:
            try:
                record = self._container(eviction.container)
                if record.state is not ContainerState.EXITED and record.id not in self._evicting:
                    move_container(record, ContainerVerb.STOP)
                    self._evict(record, eviction)
            except CribError as error:
                text = "NRI plugin %s wants container %s evicted: %s"
                _log.warning(text, eviction.plugin, eviction.container, error)

    def _evict(self, record: ContainerRecord, eviction: Eviction) -> None:
        core = self._core
        why = f"NRI plugin {eviction.plugin}: {eviction.reason or 'it gives no reason'}"
        _log.warning("container %s is evicted: %s", record.id, why)
        core.history.container_happens("evicted", record, core.sandboxes.get(record.sandbox_id), why)
        core.timeline.of(record.sandbox_id).mark(f"NRI {eviction.plugin}", f"evict {record.config.name}", why)
        self._evicting.add(record.id)
        work = self._stop.evict(record.id, grace_of(record), why)
        evicting = core.keeper.begin("evict container", work, record.id).task
        evicting.add_done_callback(lambda _: self._evicting.discard(record.id))

    async def carry_out(self, orders: PluginOrders) -> None:
        """What came with an answer. Evictions begin first: they make room for what others get."""
        await self.evict(orders.evictions)
        await self.update(orders.updates)


def grace_of(record: ContainerRecord) -> float:
    """Seconds that the container's pod gives it to end."""
    try:
        return max(0.0, float(record.config.annotations.get(_GRACE, USUAL_GRACE)))
    except ValueError:
        return USUAL_GRACE
