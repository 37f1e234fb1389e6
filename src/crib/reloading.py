"""The configuration of one daemon, and how it is read again while the daemon runs: by a call or by SIGHUP.

All of it or nothing. What can fail is prepared first; then all rooms are given the new settings, in one step
of the loop. Keys that are not LIVE keep the values that the daemon started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from crib.backends.handlers import LaterHandlers, check_kinds
from crib.backends.network.networks import check_mode
from crib.config import DEFAULT_PATH, ConfigError, Configuration, read
from crib.config.checks import check
from crib.config.views import differences, shown
from crib.engine.node import Node
from crib.host.notify import ServiceManager
from crib.host.threads import FOREIGN, OURS, Job, Overdue
from crib.model.configuration import ChangedKey, Reloaded, ShownConfiguration
from crib.model.errors import CribError, Unavailable
from crib.model.events import EventKind
from crib.model.keys import followed
from crib.model.settings import HandlerSettings, Settings
from crib.observe import logs
from crib.streaming.server import StreamServer

_log = logging.getLogger(__name__)

READ_SECONDS = 10.0
"""For reading and checking the files."""
MOST_TOLD = 5
"""Keys or faults that one line names."""
SUBJECT = "configuration"
"""Of notices."""

Finish = Callable[[bool], Awaitable[None]]


class FollowingPart(Protocol):
    """Something that may fail to follow other settings."""

    async def make_ready(self, settings: Settings) -> Finish:
        """Make ready for them; CribError. The answer is called with whether they hold from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Followers:
    """Who goes by the settings."""

    node: Node
    parts: Sequence[FollowingPart]
    streams: StreamServer


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a reload is going to do."""

    configuration: Configuration
    settings: Settings
    changed: tuple[ChangedKey, ...]
    waiting: tuple[ChangedKey, ...]
    wrong: tuple[str, ...]

    @classmethod
    def of(
        cls, configuration: Configuration, before: Settings, bound: Mapping[str, HandlerSettings | None]
    ) -> Self:
        """Of what was read; takes some milliseconds. `bound`: see Node.bound_handlers."""
        settings = followed(before, configuration.settings)
        late = {
            name
            for name, handler in settings.handlers.items()
            if name not in before.handlers and (handler.cni_conf_dir or bound.get(name, handler) != handler)
        }
        if late:
            handlers = {name: one for name, one in settings.handlers.items() if name not in late}
            settings = replace(settings, handlers=handlers)
        return cls(
            configuration,
            settings,
            tuple(differences(before, settings)),
            tuple(differences(settings, configuration.settings)),
            tuple(f"beside what takes a restart: {text}" for _, text in check(settings)),
        )


class NewHandlers:
    """The part that opens the handlers which are new, and offers them once the settings hold."""

    def __init__(self, node: Node, later: LaterHandlers) -> None:
        self._node = node
        self._later = later

    async def make_ready(self, settings: Settings) -> Finish:
        """See FollowingPart. One that cannot be used is there all the same, and says why, as at a start."""
        opened = await self._later.open(settings, self._node.missing_handlers(settings))

        async def finish(holds: bool) -> None:
            if holds:
                self._node.offer(opened)
                return
            for handler in opened.values():
                await handler.close()

        return finish


class Reloading:
    """See ConfigurationSource."""

    def __init__(self, path: str) -> None:
        """Read the files and the environment for the first time; ConfigError, Broken."""
        self._path = path
        self.configuration = self._read()
        """What was read last and was sound."""
        self._first = self.configuration
        """Keys that take a restart come from there."""
        self.settings = self.configuration.settings
        """Those that hold now."""
        self._manager: ServiceManager | None = None
        self._followers: Followers | None = None
        self._faults: tuple[str, ...] = ()
        self._waiting: tuple[ChangedKey, ...] = ()
        self._lock = asyncio.Lock()
        self._hangup = asyncio.Event()

    def listen(self, manager: ServiceManager) -> None:
        """From now on SIGHUP asks for a reload; one that comes early waits until the daemon is ready."""
        self._manager = manager
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hangup.set)

    @contextlib.asynccontextmanager
    async def ready(self, followers: Followers) -> AsyncIterator[None]:
        """While this lasts the settings may change."""
        self._followers = followers
        self._tell_notices(followers.node)
        followers.node.keeper.serve("reloads by SIGHUP", self._by_signal())
        try:
            yield
        finally:
            self._followers = None

    async def show(self) -> ShownConfiguration:
        what = "telling the configuration"
        keys = await OURS.run(what, shown, self.configuration, self.settings, self._first)
        return ShownConfiguration(
            keys=tuple(keys),
            files=self.configuration.files,
            waiting=self._waiting,
            deprecated=tuple(map(str, self.configuration.deprecated)),
            faults=self._faults,
        )

    async def reload(self) -> Reloaded:
        async with self._lock:
            if self._followers is None:
                raise Unavailable("cribd is starting or stopping: its configuration cannot change now")
            self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                done = await self._reload(self._followers)
            finally:
                self._say("READY=1")
        return done

    async def _reload(self, followers: Followers) -> Reloaded:
        before = self.settings
        try:
            job = Job("reading the configuration", limit=READ_SECONDS)
            bound = followers.node.bound_handlers()
            plan = await FOREIGN.run(job, lambda: _Plan.of(self._read(), before, bound))
            if plan.wrong:
                return self._refused(followers, plan.wrong)
            settings = plan.settings
            async with _prepared(followers.parts, settings) as hold:
                hold()
                self.configuration, self.settings = plan.configuration, settings
                logs.set_up(settings.log)
                followers.node.adapt(settings)
                followers.streams.adapt(settings.streaming)
        except (ConfigError, CribError, Overdue) as error:
            return self._refused(followers, str(error).splitlines())
        self._faults, self._waiting = (), plan.waiting
        summary = f"changed: {_few([one.key for one in plan.changed])}"  # no values: one may be a secret
        if self._waiting:
            summary += f"; takes a restart: {_few([one.key for one in self._waiting])}"
        _log.info("configuration reloaded; %s", summary)
        followers.node.history.happened(EventKind.NODE, "reloaded", SUBJECT, summary)
        self._tell_notices(followers.node)
        return Reloaded(plan.changed, plan.waiting)

    def _refused(self, followers: Followers, faults: Sequence[str]) -> Reloaded:
        self._faults = tuple(faults)
        for fault in faults:
            _log.error("configuration: %s", fault)
        self._tell_notices(followers.node)
        return Reloaded(faults=self._faults)

    def _tell_notices(self, node: Node) -> None:
        """What is odd about the configuration, for Status and checks; pods are made all the same."""
        texts = []
        if self._faults:
            texts.append(f"the last reload was refused, and the old settings hold: {_few(self._faults)}")
        if self._waiting:
            texts.append(f"a restart is needed for {_few([one.key for one in self._waiting])}")
        texts += map(str, self.configuration.deprecated)
        if texts:
            node.notices.warn(SUBJECT, "; ".join(texts))
        else:
            node.notices.healed(SUBJECT)

    async def _by_signal(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            try:
                await self.reload()
            except CribError as error:
                _log.warning("SIGHUP: %s", error)
            except Exception:
                _log.exception("SIGHUP: the configuration could not be reloaded")

    def _read(self) -> Configuration:
        is_named = self._path != DEFAULT_PATH
        configuration = read(self._path, required=is_named, environment=os.environ)
        check_kinds(configuration.settings)
        check_mode(configuration.settings.network)
        return configuration

    def _say(self, state: str) -> None:
        if self._manager is not None:
            self._manager.tell(state)


@contextlib.asynccontextmanager
async def _prepared(parts: Sequence[FollowingPart], settings: Settings) -> AsyncIterator[Callable[[], None]]:
    """All parts are ready for the settings, or CribError. What is given says that they hold from now on."""
    holds = False

    def hold() -> None:
        nonlocal holds
        holds = True

    async with contextlib.AsyncExitStack() as finishing:

        async def finish(one: Finish) -> None:
            await one(holds)

        for part in parts:
            finishing.push_async_callback(finish, await part.make_ready(settings))
        yield hold


def _few(words: Sequence[str]) -> str:
    more = f" and {len(words) - MOST_TOLD} more" if len(words) > MOST_TOLD else ""
    return f"{', '.join(words[:MOST_TOLD])}{more}" if words else "nothing"
