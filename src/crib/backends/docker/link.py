"""Whether the Engine is there, and what it is: learnt when it answers first, and again after it was away."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from crib.backends.docker.api import NEWEST_API, OLDEST_API, EngineApi, EngineCall, EngineLost
from crib.model.errors import Broken, CribError

_log = logging.getLogger(__name__)

FRESH = 3.0
"""Seconds for which a look at the Engine counts."""
LOOK_TIME = 5.0
"""Seconds that it has to answer a look."""
_UNASKED = "the Engine was not asked yet"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the Engine says of itself."""

    version: str
    api: tuple[int, int]
    """The newest that both sides speak."""
    cgroup_driver: str
    live_restore: bool
    """KnownContainers go on while the Engine is away."""
    storage: str
    """The driver of its layers."""

    @property
    def recursive_read_only(self) -> bool:
        """A read-only mount is so with all below it, unless it is asked for otherwise (API 1.44)."""
        return self.api >= (1, 44)


class EngineLink:
    """To one Engine."""

    def __init__(self, name: str, api: EngineApi, cgroup_driver: str) -> None:
        self._name = name
        self._api = api
        self._cgroup_driver = cgroup_driver
        self._facts: EngineFacts | None = None
        self._looked = -FRESH
        self._looking = asyncio.Lock()
        self.problem = _UNASKED
        """What keeps it from being used; empty if nothing."""

    @property
    def facts(self) -> EngineFacts | None:
        """As it said last; None until it has said so."""
        return self._facts

    async def asked(self, *, anew: bool = False) -> str:
        """`problem`, as it is now, or was a moment ago."""
        async with self._looking:
            age = time.monotonic() - self._looked
            if anew or age >= FRESH or self._api.lost_at > self._looked:
                await self._ask_anew()
                self._looked = time.monotonic()
            return self.problem

    async def require(self) -> EngineFacts:
        """EngineLost, or Broken where the Engine is one that cannot be used."""
        problem = await self.asked(anew=bool(self.problem))
        if problem or self._facts is None:
            raise (EngineLost if self._facts is None else Broken)(f"handler {self._name}: {problem}")
        return self._facts

    async def _ask_anew(self) -> None:
        before = self.problem
        try:
            found = await self._ask()
            self.problem = self._unfit(found)
            self._facts = found
            self._api.api = found.api
        except CribError as error:
            self.problem, self._facts = error.problem, None
        if self.problem and self.problem != before:
            _log.warning("handler %s: %s", self._name, self.problem)
        elif before and not self.problem and self._facts is not None:
            _log.info("handler %s: the Engine answers: version %s", self._name, self._facts.version)

    async def _ask(self) -> EngineFacts:
        what = "looking for the Engine"
        info = await self._api.ask(EngineCall(what, "GET", "/info", limit=LOOK_TIME))
        known = self._facts
        if known is not None and known.version == info.get("ServerVersion"):
            return known
        version = await self._api.ask(EngineCall(what, "GET", "/version", limit=LOOK_TIME))
        return _facts(info, version)

    def _unfit(self, found: EngineFacts) -> str:
        """What keeps this Engine from being used; empty if nothing."""
        if found.api < OLDEST_API:
            return f"Engine {found.version} is too old: API {_dotted(OLDEST_API)} (Engine 20.10) is needed"
        if found.cgroup_driver != "cgroupfs":
            return (
                f"the Engine makes cgroups with the driver {found.cgroup_driver!r}; it must be cgroupfs"
                " (native.cgroupdriver=cgroupfs in its exec-opts)"
            )
        if self._cgroup_driver != "cgroupfs":
            return f"cgroup_driver is {self._cgroup_driver!r}; it must be cgroupfs"
        return ""


def _facts(info: Any, version: Any) -> EngineFacts:
    try:
        major, _, minor = str(version["ApiVersion"]).partition(".")
        return EngineFacts(
            version=str(version["Version"]),
            api=min(NEWEST_API, (int(major), int(minor))),
            cgroup_driver=str(info.get("CgroupDriver") or ""),
            live_restore=bool(info.get("LiveRestoreEnabled")),
            storage=str(info.get("Driver") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Broken(f"the Engine says something of itself that is not understood: {error!r}") from error


def _dotted(api: tuple[int, int]) -> str:
    return ".".join(map(str, api))
