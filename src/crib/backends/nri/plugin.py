"""One plugin: from its connection to its end, and what it is asked in between.

It is asked one thing at a time, whatever different pods want of it, as it would be by other runtimes: many
plugins keep books and no locks. A plugin that does not answer in time, or does what the protocol does not
allow, is dropped: its connection is closed, and verbs go on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from crib.backends.nri.link import PluginLink
from crib.backends.nri.lives import MAX_NAME, Breach, PluginName, following
from crib.backends.nri.moments import ALL, WITHOUT_OLDER_FORM, Moment, subscribed
from crib.model.plugin_status import PluginFigures, PluginState, PluginStatus
from crib.model.plugins import PluginOrders
from crib.ports.plugins import PluginRefused
from crib.stubs.nri.v1alpha1 import api_pb2 as pb
from crib.ttrpc.errors import CallFailed, CallTimedOut, PeerLost, TtrpcError
from crib.wire.rpc_codes import Code
from crib.wire.ttrpc import Oversized

_log = logging.getLogger(__name__)

UNREGISTERED = "unregistered"
"""In figures: all plugins without a name."""
M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginPeer:
    """Who is at the other end."""

    pid: int
    installed: bool


class Plugin:
    """A connected plugin."""

    def __init__(
        self, link: PluginLink, peer: PluginPeer, name: PluginName | None, figures: PluginFigures
    ) -> None:
        """`name`: of one that is installed; others say theirs."""
        self.link = link
        self.peer = peer
        self.name = name
        self.version = ""
        self.mask = ALL
        self.state = PluginState.CONNECTED
        self.since = time.time_ns()
        self.problem = ""
        """Why it was dropped."""
        loop = asyncio.get_running_loop()
        self.registered: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.settled: asyncio.Future[None] = loop.create_future()
        """It is ready, or it has ended."""
        self._figures = figures
        self._turn = asyncio.Lock()
        self._older: set[Moment] = set()
        """What it takes by the call StateChange only."""
        self.calls = self.failures = 0
        self.seconds = 0.0
        self.changed: Callable[[], None] = lambda: None
        """Called when it has become ready, or has ended."""

    def __str__(self) -> str:
        if self.name is not None:
            return str(self.name)
        return f"without a name (pid {self.peer.pid})"

    @property
    def is_ready(self) -> bool:
        return self.state is PluginState.READY

    @property
    def status(self) -> PluginStatus:
        return PluginStatus(
            name=str(self.name or ""),
            state=self.state,
            since=self.since,
            pid=self.peer.pid,
            installed=self.peer.installed,
            version=self.version,
            events=tuple(moment.call for moment in subscribed(self.mask)) if self.is_ready else (),
            calls=self.calls,
            failures=self.failures,
            seconds=self.seconds,
        )

    def wants(self, moment: Moment) -> bool:
        """Whether it is to be asked."""
        return self.is_ready and bool(self.mask & moment.bit)

    def become(self, state: PluginState) -> None:
        """The next part of its life. Breach."""
        self.state = following(self.state, state)
        self.since = time.time_ns()
        if state is PluginState.READY:
            self._settle()

    def register(self, index: str, base: str, version: str) -> None:
        """It has said who it is. Breach, ValueError."""
        name = self.name or PluginName.checked(index, base)
        self.become(PluginState.REGISTERED)
        self.name, self.version = name, version[:MAX_NAME]
        self.registered.set_result(None)
        _log.info(
            "NRI plugin %s has registered: pid %d, NRI %s", name, self.peer.pid, self.version or "unknown"
        )

    def count(self, orders: PluginOrders) -> None:
        """It wants these."""
        self._figures.updates.add((str(self),), len(orders.updates))
        self._figures.evictions.add((str(self),), len(orders.evictions))

    async def shut_down(self, limit: float) -> None:
        """Tell it that the daemon ends."""
        with contextlib.suppress(TtrpcError, Breach):
            await self.link.call("Shutdown", pb.Empty(), pb.Empty, limit)

    def drop(self, problem: str) -> None:
        """Send it away, and tell why; nothing happens if it has ended already."""
        if self._end(problem):
            self._figures.dropped.add((str(self.name or UNREGISTERED),))
            _log.error("NRI plugin %s is dropped: %s", self, problem)

    def end(self, reason: str) -> None:
        """Its connection has ended, or is to end; nothing is wrong with that."""
        if self._end(""):
            _log.info("NRI plugin %s has gone: %s", self, reason)

    def lost(self, reason: str) -> None:
        """Its connection has ended: by itself, or for what came on it."""
        if self.link.breach:
            self.drop(self.link.breach)
        else:
            self.end(reason)

    def _end(self, problem: str) -> bool:
        if self.state is PluginState.GONE:
            return False
        self.problem = problem
        self.become(PluginState.GONE)
        self.link.close()
        self.ended.set_result(None)
        self._settle()
        return True

    def _settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
        self.changed()

    async def ask(
        self, moment: Moment, request: Message, kind: type[M], about: str, limit: float
    ) -> M | None:
        """Its answer; None where it does not want to be asked, or ends meanwhile. PluginRefused.

        `about` is the id of the pod or container; `limit`, in seconds, begins when it is asked.
        """
        if not self.wants(moment):
            return None
        async with self._turn:
            if not self.is_ready:
                return None
            try:
                return await self.measured(
                    moment.call, self._carried(moment, request, kind, limit), about, limit
                )
            except (CallFailed, Oversized) as error:
                raise PluginRefused(f"plugin {self} failed in {moment.call} of {about}: {error}") from error

    async def measured(self, call: str, answer: Awaitable[T], about: str, limit: float) -> T | None:
        """What it answers; None where it has ended meanwhile, or has been dropped for how it answered.

        CallFailed where it answers with an error, Oversized where it cannot be asked.
        """
        began = time.monotonic()
        failed = True
        try:
            found = await answer
            failed = False
            return found
        except CallTimedOut:
            self._figures.timeouts.add((str(self),))
            self.drop(f"it did not answer {_of(call, about)} within {limit:g} s")
        except Breach as error:
            self.drop(f"{_of(call, about)}: {error}")
        except PeerLost as error:
            self.lost(f"{error}, while it was asked {_of(call, about)}")
        finally:
            seconds = time.monotonic() - began
            self.calls += 1
            self.failures += failed
            self.seconds += seconds
            self._figures.calls.add((str(self), call), seconds, failed=failed)
        return None

    async def _carried(self, moment: Moment, request: Message, kind: type[M], limit: float) -> M:
        """By the call of its own, or by the one that older plugins have for many."""
        if moment not in self._older:
            try:
                return await self.link.call(moment.call, request, kind, limit)
            except CallFailed as error:
                if error.code != Code.UNIMPLEMENTED or moment is Moment.VALIDATE_CONTAINER_ADJUSTMENT:
                    raise
            if moment in WITHOUT_OLDER_FORM:
                self._forget(moment)
                return kind()
        try:
            await self.link.call("StateChange", older_form(moment, request), pb.Empty, limit)
        except CallFailed as error:
            if error.code != Code.UNIMPLEMENTED:
                raise
            self._forget(moment)
        else:
            if moment not in self._older:
                _log.info("NRI plugin %s is told of %s by StateChange, as older ones are", self, moment.call)
                self._older.add(moment)
        return kind()

    def _forget(self, moment: Moment) -> None:
        self.mask &= ~moment.bit
        _log.warning("NRI plugin %s subscribes to %s and does not have it", self, moment.call)


def _of(call: str, about: str) -> str:
    return f"{call} of {about}" if about else call


def older_form(moment: Moment, request: Message) -> pb.StateChangeEvent:
    """What a plugin is sent that does not know the call of an event."""
    shown = {field.name: value for field, value in request.ListFields()}
    return pb.StateChangeEvent(
        event=pb.Event.ValueType(moment), pod=shown["pod"], container=shown.get("container")
    )
