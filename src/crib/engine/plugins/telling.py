"""The moments at which verbs ask and tell plugins.

A plugin may refuse what has not been done yet: a pod's run, a create, a start, an update. It cannot refuse
the end of something, or what has already been done. The error or the log names the plugin that refused or
failed.

If plugins were told of a run or a create that then fails, they are told that it has ended and is removed. One
of them may have reserved something for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from crib.engine.plugins.gate import Gate
from crib.model.container import ContainerRecord
from crib.model.edits import ContainerEdits
from crib.model.errors import CribError, WrongState
from crib.model.ids import ContainerId, SandboxId
from crib.model.plugins import ContainerMoment, PluginOrders, PodMoment, ShownContainer, ShownPod
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.ports.clocks import StageTimer
from crib.ports.containers import Adjust
from crib.ports.plugins import NodePlugins, PluginRefused
from crib.tasks.keeper import TaskKeeper

_log = logging.getLogger(__name__)

MOST_SHOWN = 64
"""Pods that are kept as they were shown, some KiB each."""


@dataclass(frozen=True, slots=True)
class Showing:
    """Where it is looked up what plugins are shown."""

    sandbox: Callable[[SandboxId], SandboxRecord | None]
    pod_spec: Callable[[SandboxRecord], bytes]
    container_spec: Callable[[ContainerRecord, SandboxRecord], bytes]
    stage: Callable[[SandboxId], StageTimer]

    def pod(self, record: SandboxRecord) -> ShownPod:
        """As plugins are shown it."""
        spec = b""
        with suppress(CribError):
            spec = self.pod_spec(record)
        return ShownPod(record, spec)

    def container(self, record: ContainerRecord, sandbox: SandboxRecord) -> ShownContainer:
        """The same of a container that has been made."""
        spec = b""
        with suppress(CribError):
            spec = self.container_spec(record, sandbox)
        return ShownContainer(record, spec)


async def _left_alone(orders: PluginOrders) -> None:
    """What is done before the node is up."""


class PluginMoments:
    """Those of the node, as verbs see them. Without any, each moment costs a look at `present`."""

    def __init__(self, port: NodePlugins | None, keeper: TaskKeeper, showing: Showing) -> None:
        self._port = port
        self._keeper = keeper
        self.showing = showing
        self.gate = Gate()
        self.carry_out: Callable[[PluginOrders], Coroutine[object, object, None]] = _left_alone
        """Does what plugins want of other containers (`engine.plugin_wishes`)."""
        self._shown: dict[SandboxId, ShownPod] = {}
        """Pods as they were last shown with a container."""
        self._told: dict[SandboxId, PodMoment] = {}
        """The last that plugins have heard of a pod, as to its beginning and end."""
        self._ending: dict[ContainerId, asyncio.Future[None]] = {}
        """Containers that have ended, while plugins are being told; done when they have been."""

    @property
    def present(self) -> bool:
        """Whether there is anybody to ask or tell."""
        return self._port is not None and self._port.present

    @property
    def _expected(self) -> bool:
        """Whether there is anybody, or somebody who is just learning what there is."""
        return self.present or self.gate.is_wanted

    @property
    def untold_ends(self) -> Collection[ContainerId]:
        """Containers that have ended, which plugins are still to hear of, at this moment."""
        return self._ending.keys()

    # pods

    async def runs(self, pod: SandboxRecord) -> None:
        """All of it is there. WrongState when a plugin refuses it."""
        if self.present:
            self._told[pod.id] = PodMoment.RUN
            if self._asked.hears(PodMoment.RUN):
                await self._pod(PodMoment.RUN, self._shown_pod(pod))

    async def never_ran(self, pod: SandboxRecord) -> None:
        """The run has failed: from here on plugins have nothing to do with it."""
        if self._told.get(pod.id) is PodMoment.RUN:
            await self._pod_ends(PodMoment.STOP, pod)
            await self._pod_ends(PodMoment.REMOVE, pod)
        self._told[pod.id] = PodMoment.REMOVE

    async def updates_pod(self, pod: SandboxRecord, wanted: SandboxRecord) -> None:
        """WrongState when a plugin refuses it."""
        if self.present and self._asked.hears(PodMoment.UPDATE):
            shown = self._shown_pod(pod)
            asked = ShownPod(pod, shown.spec, wanted.overhead, wanted.resources)
            await self._pod(PodMoment.UPDATE, asked)

    async def updated_pod(self, pod: SandboxRecord) -> None:
        """Other limits are in force."""
        await self._pod_over(PodMoment.POST_UPDATE, pod)

    async def pod_stops(self, pod: SandboxRecord, containers: Iterable[ContainerRecord]) -> None:
        """Its containers have ended, its network is still there. Told once, however often it is tried."""
        if not self._expected or self._told.get(pod.id) in (PodMoment.STOP, PodMoment.REMOVE):
            return
        if pod.state is SandboxState.CREATING:
            return
        for row in containers:
            await self._end_told(row.id)
        self._told[pod.id] = PodMoment.STOP
        await self._pod_ends(PodMoment.STOP, pod)

    async def pod_removed(self, pod: SandboxRecord) -> None:
        """Nothing is left of it but its row."""
        self._shown.pop(pod.id, None)
        told = self._told.pop(pod.id, None)
        if self._expected and told is not PodMoment.REMOVE and pod.state is not SandboxState.CREATING:
            await self._pod_ends(PodMoment.REMOVE, pod)

    async def _pod_ends(self, moment: PodMoment, pod: SandboxRecord) -> None:
        with _noted(f"{moment} of pod sandbox {pod.id}"):
            async with self.gate.telling():
                await self._pod_over(moment, pod)

    async def _pod_over(self, moment: PodMoment, pod: SandboxRecord) -> None:
        """What happens whether plugins like it or not."""
        if self.present and self._asked.hears(moment):
            with _noted(f"{moment} of pod sandbox {pod.id}"):
                await self._pod(moment, self.showing.pod(pod))

    async def _pod(self, moment: PodMoment, shown: ShownPod) -> None:
        with _refusals():
            await self._asked.pod(moment, shown, self.showing.stage(shown.record.id))

    # containers

    def creation(self, record: ContainerRecord, sandbox: SandboxRecord) -> Creation:
        """To be entered around the making of a container, until its row is listed."""
        return Creation(self, record, sandbox)

    async def creates(
        self, record: ContainerRecord, sandbox: SandboxRecord, spec: bytes
    ) -> tuple[ContainerEdits, ...]:
        """What is to be changed in a container that is about to be made. WrongState."""
        if not self.present:  # they have gone in this moment
            return ()
        stage = self.showing.stage(sandbox.id)
        with _refusals():
            answer = await self._asked.create(self._shown_pod(sandbox), ShownContainer(record, spec), stage)
        if answer.orders != PluginOrders():
            await self.carry_out(answer.orders)
        return answer.edits

    async def never_made(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        """Plugins have heard of it, and it did not come to be."""
        await self._tell_end(record, sandbox)
        await self._container_over(ContainerMoment.REMOVE, record, sandbox)

    async def created(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        """Its first process waits to be started."""
        await self._container_over(ContainerMoment.POST_CREATE, record, sandbox)

    async def starts(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        """WrongState when a plugin refuses it."""
        if self.present:
            await self._container(ContainerMoment.START, record, sandbox)

    async def started(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        """Its program runs."""
        await self._container_over(ContainerMoment.POST_START, record, sandbox)

    async def updates(
        self, record: ContainerRecord, sandbox: SandboxRecord, wanted: ResourceChange
    ) -> ResourceChange:
        """What is to change, when a client wants this. WrongState."""
        if not self.present or not self._asked.hears("UpdateContainer"):
            return wanted
        pod, shown = self._shown_pod(sandbox), self.showing.container(record, sandbox)
        with _refusals():
            answer = await self._asked.update(pod, shown, wanted, self.showing.stage(sandbox.id))
        if answer.orders != PluginOrders():
            await self.carry_out(answer.orders)
        return wanted if answer.change is None else answer.change

    async def updated(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        """Other limits are in force."""
        await self._container_over(ContainerMoment.POST_UPDATE, record, sandbox)

    def ended(self, record: ContainerRecord) -> None:
        """It is EXITED, however that came; plugins are told beside whatever goes on."""
        sandbox = self.showing.sandbox(record.sandbox_id)
        if sandbox is not None and self._expected:
            self._ending[record.id] = asyncio.get_running_loop().create_future()
            work = self._keeper.begin("tell plugins of an end", self._end(record, sandbox), record.id)
            work.task.add_done_callback(lambda _: self._is_told(record.id))  # one that never began, too

    async def removed(self, record: ContainerRecord) -> None:
        """Nothing is left of it but its row."""
        sandbox = self.showing.sandbox(record.sandbox_id)
        if not record.is_made or sandbox is None:
            return
        await self._end_told(record.id)
        if self._expected:
            with _noted(f"removal of container {record.id}"):
                async with self.gate.telling():
                    if not record.finished_at:  # its end was never seen
                        await self._tell_end(record, sandbox)
                    await self._container_over(ContainerMoment.REMOVE, record, sandbox)

    async def _end(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        async with self.gate.telling():
            await self._tell_end(record, sandbox)
            self._is_told(record.id)  # in the pass: who is alone goes by it

    def _is_told(self, container: ContainerId) -> None:
        if (told := self._ending.pop(container, None)) is not None:
            told.set_result(None)

    async def _tell_end(self, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        if not self.present or not self._asked.hears("StopContainer"):
            return
        pod, shown = self._shown_pod(sandbox), self.showing.container(record, sandbox)
        with _noted(f"StopContainer of container {record.id}"), _refusals():
            orders = await self._asked.stop(pod, shown, self.showing.stage(sandbox.id))
            if orders != PluginOrders():
                # Not here: whoever waits for this holds locks of containers that are to be changed.
                self._keeper.begin("what plugins want", self.carry_out(orders), record.id)

    async def _end_told(self, container: ContainerId) -> None:
        if (told := self._ending.get(container)) is not None:
            await asyncio.wait([told])

    async def _container_over(
        self, moment: ContainerMoment, record: ContainerRecord, sandbox: SandboxRecord
    ) -> None:
        if self.present:
            with _noted(f"{moment} of container {record.id}"):
                await self._container(moment, record, sandbox)

    async def _container(
        self, moment: ContainerMoment, record: ContainerRecord, sandbox: SandboxRecord
    ) -> None:
        if not self._asked.hears(moment):
            return
        pod, shown = self._shown_pod(sandbox), self.showing.container(record, sandbox)
        with _refusals():
            await self._asked.container(moment, pod, shown, self.showing.stage(sandbox.id))

    def _shown_pod(self, record: SandboxRecord) -> ShownPod:
        """As with the container before, while its row is the same: what it is shown by is read from files."""
        shown = self._shown.pop(record.id, None)
        if shown is None or shown.record is not record or not shown.spec:
            shown = self.showing.pod(record)
        self._shown[record.id] = shown  # the last of them
        if len(self._shown) > MOST_SHOWN:
            del self._shown[next(iter(self._shown))]
        return shown

    @property
    def _asked(self) -> NodePlugins:
        assert self._port is not None
        return self._port


class Creation:
    """A container that is being made: plugins can be asked inside. At its end it is listed, or has failed.

    Where there are plugins, the gate is passed when they are asked. Until then a create may wait for file
    systems that do not answer, which must not keep the next plugin from coming.
    """

    __slots__ = ("_is_asked", "_is_inside", "_plugins", "_record", "_sandbox", "adjust", "edits")

    def __init__(self, plugins: PluginMoments, record: ContainerRecord, sandbox: SandboxRecord) -> None:
        self._plugins, self._record, self._sandbox = plugins, record, sandbox
        self._is_asked = self._is_inside = False
        self.adjust: Adjust | None = None
        self.edits: tuple[ContainerEdits, ...] = ()
        """What plugins have changed in it."""

    async def __aenter__(self) -> Self:
        if not self._plugins.present:
            await self._enter()
        if self._plugins.present:
            if self._is_inside:  # the first one has come while we waited
                self._leave()
            self.adjust = self._ask
        return self

    async def created(self, record: ContainerRecord) -> None:
        """It is listed. If that fails, its teardown tells plugins that it is over, as with any other."""
        self._is_asked = False
        await self._plugins.created(record, self._sandbox)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and self._is_asked:
                await self._plugins.never_made(self._record, self._sandbox)
        finally:
            if self._is_inside:
                self._leave()

    async def _ask(self, spec: bytes) -> tuple[ContainerEdits, ...]:
        await self._enter()
        self._is_asked = True
        self.edits = await self._plugins.creates(self._record, self._sandbox, spec)
        return self.edits

    async def _enter(self) -> None:
        await self._plugins.gate.enter(makes=True)
        self._is_inside = True

    def _leave(self) -> None:
        self._is_inside = False
        self._plugins.gate.leave()


@contextmanager
def _refusals() -> Iterator[None]:
    """What a plugin says against it, as callers of the verb get it."""
    try:
        yield
    except PluginRefused as error:
        raise WrongState(str(error)) from error


@contextmanager
def _noted(what: str) -> Iterator[None]:
    """A plugin's word counts for nothing here, but somebody may want to know."""
    try:
        yield
    except Exception as error:  # a bug too: what ends something must not fail by it
        is_bug = not isinstance(error, CribError)
        _log.warning("%s goes on: %s", what, error, exc_info=is_bug)
