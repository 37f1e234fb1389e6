"""Whether pods can be attached to the CNI networks now, what is missing, and the wait for it.

Files are cheap to read, and are always read. A plugin's answer (STATUS) costs a process. So it is asked only
when somebody wants to know, while a pod waits, and after a failed ADD; never before an ADD that may succeed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from crib.backends.network.cni.choice import NetworkChoice
from crib.backends.network.cni.conf_dir import FoundNetwork, NoNetworkConf
from crib.backends.network.cni.plugins import UNKNOWN_COMMAND, Call, PluginFailed, PluginMissing, Plugins
from crib.model.errors import Broken, CribError, Unavailable
from crib.model.facts import Readiness
from crib.ports.clocks import StageTimer
from crib.tasks.groups import all_of
from crib.wire import cni

NOT_READY = "NetworkPluginNotReady"
"""The reason that the kubelet looks for in the NetworkReady condition."""
POLL_SECONDS = 0.05
"""Between two looks at the files."""
STATUS_SECONDS = 0.5
"""For which a plugin's word counts: all pods that wait ask once in that time together."""
_REFUSALS = frozenset({cni.NOT_AVAILABLE, cni.LIMITED_CONNECTIVITY})


@dataclass(frozen=True, slots=True)
class _Word:
    """What STATUS of a network's plugins gave, and when (the loop's clock)."""

    network: cni.NetworkConf
    at: float
    problem: str
    refusal: bool
    """It is one of those that the specification has for a plugin that may be ready later."""


class ReadyNetworks:
    """The networks that a pod is attached to, once they are ready."""

    def __init__(self, choice: NetworkChoice, plugins: Plugins) -> None:
        self._choice = choice
        self._plugins = plugins
        self._words: dict[str, _Word] = {}
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def wait(self, directory: str, stage: StageTimer, deadline: float) -> tuple[FoundNetwork, ...]:
        """The networks chosen of a directory, as soon as nothing is known to be missing.

        Unavailable with all that is missing at the deadline (of the loop's clock).
        """
        now = asyncio.get_running_loop().time
        try:
            networks = await self._at_hand(directory)
            if now() >= deadline or not self._refused(networks):
                return networks
        except Unavailable:
            if now() >= deadline:
                raise
        with stage("network", "wait"):
            while True:
                try:
                    return await self._heard(directory, deadline)
                except Unavailable:
                    if now() + POLL_SECONDS >= deadline:
                        raise
                await asyncio.sleep(POLL_SECONDS)

    async def refuse(self, networks: Iterable[FoundNetwork], deadline: float) -> bool:
        """Whether plugins say, before the deadline, that a failed ADD is to be tried again later."""
        try:
            async with asyncio.timeout_at(deadline):
                return any([(await self._status(network)).refusal for network in networks])
        except TimeoutError:
            return False

    async def problem_of(self, network: FoundNetwork) -> str:
        """Why pods cannot be attached to a network now; empty if they can."""
        try:
            for plugin in network.conf.plugins:
                versions = await self._plugins.versions(plugin.type, network.conf.version)
                if network.conf.version not in versions:
                    raise Broken(
                        f"cni plugin {plugin.type} speaks {', '.join(versions)}, "
                        f"network {network.conf.name} is {network.conf.version}"
                    )
        except (CribError, OSError) as error:
            return str(error)
        return (await self._status(network)).problem

    async def readiness(self) -> Readiness:
        """Of the node's networks; what is wrong with handlers' own is in the message."""
        try:
            chosen = await self._choice.chosen()
        except NoNetworkConf as error:
            return Readiness(ready=False, reason=NOT_READY, message=str(error))
        problems = await all_of("readiness of a network", map(self.problem_of, chosen))
        if told := [
            f"network {network.conf.name} ({network.path}): {problem}"
            for network, problem in zip(chosen, problems, strict=True)
            if problem
        ]:
            return Readiness(ready=False, reason=NOT_READY, message="; ".join(told))
        return Readiness(ready=True, message="; ".join(await self._choice.problems_of_handlers()))

    async def _at_hand(self, directory: str) -> tuple[FoundNetwork, ...]:
        """Those that have a file and all plugins. Unavailable with all that is missing."""
        try:
            networks = await self._choice.chosen(directory)
        except NoNetworkConf as error:
            raise Unavailable(str(error)) from error
        missing: list[str] = []
        for network in networks:
            for plugin in network.conf.plugins:
                try:
                    await self._plugins.find(plugin.type)
                except PluginMissing as error:
                    missing.append(f"network {network.conf.name} ({network.path}): {error}")
        if missing:
            raise Unavailable("; ".join(missing))
        return networks

    def _refused(self, networks: Iterable[FoundNetwork]) -> str:
        """What plugins said when they were last asked, if it was a refusal."""
        words = (self._words.get(network.path) for network in networks)
        return "; ".join(word.problem for word in words if word is not None and word.refusal)

    async def _heard(self, directory: str, deadline: float) -> tuple[FoundNetwork, ...]:
        """Those at hand whose plugins do not refuse. Unavailable."""
        networks = await self._at_hand(directory)
        try:
            async with asyncio.timeout_at(deadline):
                words = [await self._status(network) for network in networks]
        except TimeoutError:
            raise Unavailable(self._refused(networks) or "cni plugins do not answer STATUS") from None
        if refused := "; ".join(word.problem for word in words if word.refusal):
            raise Unavailable(refused)
        return networks

    async def _status(self, network: FoundNetwork) -> _Word:
        now = asyncio.get_running_loop().time
        async with self._asking[network.path]:
            word = self._words.get(network.path)
            if word is None or word.network != network.conf or now() - word.at >= STATUS_SECONDS:
                problem, refusal = await self._ask(network.conf)
                word = self._words[network.path] = _Word(network.conf, now(), problem, refusal)
            return word

    async def _ask(self, network: cni.NetworkConf) -> tuple[str, bool]:
        if not network.at_least("1.1.0"):
            return "", False
        for plugin in network.plugins:
            stdin = cni.request(network, plugin, {}, None)
            try:
                await self._plugins.call(Call("STATUS", plugin.type, stdin))
            except PluginFailed as error:
                if error.error.code != UNKNOWN_COMMAND:
                    return str(error), error.error.code in _REFUSALS
            except CribError as error:
                return str(error), False
        return "", False
