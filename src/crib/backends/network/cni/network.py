"""Pod networks by CNI plugins (CNI specification, sections 2 to 5).

A pod is attached to one network or to several, in the order of their files. Loopback is brought up in-process
and needs no plugin. Plugins that must not meet other pods' work (GC) run alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_interface
from typing import Any, TypeVar

from crib.backends.failures import trying
from crib.backends.network.cni.choice import NetworkChoice, interface_names
from crib.backends.network.cni.commands import PluginCommands, is_namespace, result_of
from crib.backends.network.cni.conf_dir import FoundNetwork, NoNetworkConf, write_conf
from crib.backends.network.cni.gc import Exclusion, Garbage, Holders
from crib.backends.network.cni.kept_results import Kept, KeptResults, TornFile
from crib.backends.network.cni.plugins import Plugins
from crib.backends.network.cni.ready import ReadyNetworks
from crib.backends.network.cni.views import NetworkPlace, missing_in_kernel, network_info, pod_view
from crib.backends.network.counters import PodCounters
from crib.backends.network.interfaces import bring_loopback_up
from crib.backends.network.pod_ranges import PodRanges
from crib.backends.network.runtime_config import (
    of_further_network,
    plugin_arguments,
    refuse_unmet_wishes,
    refuse_unspeakable,
    runtime_config,
)
from crib.host.strays import end_programs
from crib.host.threads import FOREIGN, OURS, Job
from crib.model.errors import Broken, CribError, Unavailable
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.network import NetworkInfo, PodNetworkView
from crib.model.sandbox import DnsConfig, NetworkAttachment, PodMetadata
from crib.model.settings import NetworkSettings, Settings
from crib.model.stats import NetworkUsage
from crib.ports.clocks import StageTimer, Untimed
from crib.ports.networks import PodNetwork
from crib.wire import cni

T = TypeVar("T")

_log = logging.getLogger(__name__)

END_SECONDS = 5.0
"""For a plugin of an earlier daemon to die."""
_FAMILIES = {"ipv4": 4, "ipv6": 6}


class CniNetwork:
    """`ports.PodNetworks` by CNI plugins."""

    def __init__(self, settings: NetworkSettings, state_dir: str, of_handlers: Sequence[str] = ()) -> None:
        """`state_dir` outlives a reboot, as the plugins' own files do. `of_handlers`: see NetworkChoice."""
        self._settings = settings
        self._state_dir = state_dir
        self._choice = NetworkChoice(settings, of_handlers)
        self._plugins = Plugins(settings.cni_bin_dirs, settings.plugin_timeout, owner=state_dir)
        self.programs = self._plugins.figures
        self._ready = ReadyNetworks(self._choice, self._plugins)
        self._commands = PluginCommands(self._plugins)
        self._kept = KeptResults(state_dir)
        self._ranges = PodRanges(state_dir)
        self._pods = Exclusion()
        self._garbage = Garbage(self._plugins, self._pods, self._all_kept)
        self._counters = PodCounters()
        self._sweeping = asyncio.Lock()
        self._beginning = asyncio.Lock()
        self._has_begun = False
        self._ours: set[SandboxId] = set()
        """Pods that this process has begun to attach and not detached: a sweep may not have been told."""

    @property
    def shared(self) -> str:
        """Nothing: plugins look after what they share between pods."""
        return ""

    def adapt(self, settings: Settings) -> None:
        """Plugins that run keep the time that they were given."""
        self._settings = self._choice.settings = settings.network
        self._plugins.adapt(settings.network.cni_bin_dirs, settings.network.plugin_timeout)

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Run ADD of each network, once they are ready; what a failed one leaves is undone by `detach`."""
        return await self._attach(pod, stage, {})

    async def resume(self, pod: PodNetwork) -> NetworkAttachment | None:
        """Make it again if a repair was interrupted: other plugins look after what they made."""
        self._counters.attached(pod.id)
        kept = await self._kept_or_none(pod)
        if kept and all(one.result is not None for one in kept):
            return None
        return await self.repair(pod, Untimed())

    async def detach(self, pod: PodNetwork) -> None:
        """Run DEL with what was kept; nothing kept, nothing to do. Goes on after a plugin's failure."""
        self._counters.detached(pod.id)
        await self._begin()
        async with self._pods.shared():
            if kept := await self._kept_or_current(pod):
                await self._commands.delete(pod, kept)
                await _with_files("forget", pod.id, self._kept.remove, pod.id)
        self._ours.discard(pod.id)

    async def check(self, pod: PodNetwork) -> str:
        """Compare with the kernel, then run CHECK, where networks and plugins have it (0.4.0)."""
        try:
            kept = await self._read_kept(pod)
        except TornFile as torn:
            return f"the kept result cannot be read: {torn}"
        if not kept:
            return "no result of ADD is kept"
        if not is_namespace(pod.netns):
            return f"the network namespace {pod.netns} is gone"
        async with self._pods.shared():
            if problem := await missing_in_kernel(pod, kept):
                return problem
            problems = [await self._commands.check(pod, one) for one in kept]
        return "; ".join(problem for problem in problems if problem)

    async def repair(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """DEL, and ADD by the configuration of today; with the same addresses where a plugin takes `ips`."""
        had = {one.interface: _addresses(one) for one in await self._kept_or_none(pod)}
        await self._undo(pod)
        try:
            return await self._attach(pod, stage, had)
        except CribError as error:
            if not any(one.grants("ips") for one in await self._kept_or_none(pod)):
                raise
            _log.warning("pod %s: could not keep its addresses: %s", pod.id, error)
        await self._undo(pod)
        return await self._attach(pod, stage, {})

    async def readiness(self) -> Readiness:
        """Ready if the node's networks have files, and plugins that speak their version and are ready.

        It is the node's networks that decide; a handler's own that cannot be used is named in the message.
        """
        return await self._ready.readiness()

    async def configure(self, pod_cidr: str) -> None:
        """Tell plugins with the ipRanges capability of the node's ranges, and write the templates' file."""
        await self._write_conf(await self._ranges.remember(pod_cidr))

    async def _write_conf(self, ranges: Sequence[str]) -> None:
        if ranges and self._settings.cni_conf_template:
            directory = self._settings.cni_conf_dir
            template = self._settings.cni_conf_template
            job = Job(f"writing cni configuration from {template} to {directory}", directory)
            if await FOREIGN.run(job, write_conf, template, directory, ranges):
                _log.info("cni configuration for %s is written to %s", ", ".join(ranges), directory)

    async def networks(self) -> Sequence[NetworkInfo]:
        """Those of all directories, and those without a file that pods are still attached to."""
        attached: Counter[str] = Counter()
        kept_only: dict[str, Kept] = {}
        for kept in (await self._all_kept()).values():
            attached.update({one.network.name for one in kept})
            kept_only.update((one.network.name, one) for one in kept)
        found: list[NetworkInfo] = []
        for network, place in await self._places():
            count = attached[network.conf.name]
            kept_only.pop(network.conf.name, None)
            found.append(await network_info(self._plugins, network, place, count, self._ranges.ranges))
        for name, one in kept_only.items():
            gone = NetworkPlace(problem="its configuration no longer exists")
            network = FoundNetwork(one.network, "")
            found.append(await network_info(self._plugins, network, gone, attached[name], ()))
        return sorted(found, key=lambda info: (not info.interface, bool(info.handlers), not info.attached))

    async def view(self, pod: PodNetwork) -> PodNetworkView:
        """The kernel's interfaces and routes; ports and limits as plugins were told."""
        return await pod_view(pod, await self._kept_or_none(pod))

    def resolver(self, namespace: str) -> DnsConfig | None:
        """None: the kubelet says what a cluster's DNS is."""
        return None

    async def usage(self, pods: Sequence[PodNetwork]) -> Mapping[SandboxId, NetworkUsage]:
        """Counters of the pods' interfaces; nothing of one whose namespace is gone."""
        return await self._counters.usage(pods)

    async def sweep(
        self, known: Collection[SandboxId], *, everything: bool = False, dry: bool = False
    ) -> Sequence[str]:
        """DEL for every kept pod that is not known, then the garbage of networks, which `dry` cannot list."""
        if not dry:
            await self._begin()
        async with self._sweeping:
            kept = await self._all_kept()
            networks = [one.network for attachments in kept.values() for one in attachments]
            lost = [pod for pod in kept if pod not in known and pod not in self._ours]
            if dry:
                return [f"network of pod {pod}" for pod in lost]
            released: list[str] = []
            for pod_id in lost:
                try:
                    await self.detach(PodNetwork(pod_id, PodMetadata("", "", ""), netns=""))
                except CribError as error:
                    _log.warning("network of unknown pod %s stays until the next sweep: %s", pod_id, error)
                    continue
                released.append(f"network of pod {pod_id}")
            networks = [*await self._chosen_anywhere(), *networks]
            there = (await self._all_kept()).keys() - lost
            holders = Holders(
                is_known=lambda pod: pod in known or pod in there or pod in self._ours,
                lost=frozenset(lost),
                everything=everything,
            )
            found, broken_off = await self._garbage.collect(networks, holders)
            released += found
        if broken_off:
            text = f"{'; '.join(broken_off)}; released by then: {', '.join(released) or 'nothing'}"
            raise Unavailable(text)
        return released

    async def dismantle(self) -> None:
        """What plugins share between pods is theirs to keep."""

    async def close(self) -> None:
        """Nothing is held open."""

    async def _attach(
        self, pod: PodNetwork, stage: StageTimer, had: Mapping[str, tuple[str, ...]]
    ) -> NetworkAttachment:
        """`had`: addresses to ask for, by interface."""
        refuse_unspeakable(pod)
        await self._begin()
        config = runtime_config(pod, self._ranges.ranges)
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.ready_timeout
        while True:
            self._ours.add(pod.id)  # `detach` before another try has taken it out
            self._counters.attached(pod.id)
            try:
                networks = await self._ready.wait(pod.conf_dir, stage, deadline)
            except Unavailable as error:
                raise Unavailable(f"attach pod {pod.id}: {error}") from error
            refuse_unmet_wishes(pod, networks[0].conf)
            try:
                return await self._add(pod, _asked(pod, networks, config, had), stage)
            except (Broken, Unavailable):
                if now() >= deadline or not await self._ready.refuse(networks, deadline):
                    raise
            await self.detach(pod)

    async def _add(self, pod: PodNetwork, asked: Sequence[Kept], stage: StageTimer) -> NetworkAttachment:
        async with self._pods.shared():
            with stage("network", "loopback"):
                await bring_loopback_up(pod)
            done: tuple[Kept, ...] = ()
            for one in asked:
                await self._keep(pod.id, (*done, one))
                done = (*done, await self._commands.add(pod, one, stage))
            await self._keep(pod.id, done)
        addresses = _addresses(done[0])
        if not addresses:
            name, interface = done[0].network.name, done[0].interface
            raise Broken(f"attach pod {pod.id}: network {name} gave {interface} no address")
        return NetworkAttachment(
            addresses=_ordered(addresses, self._settings.ip_preference),
            interface=done[0].interface,
            details={"network": ",".join(one.network.name for one in done)},
        )

    async def _begin(self) -> None:
        """Once in a daemon's life, before anything else: what an earlier one left under way, and undone."""
        async with self._beginning:
            if self._has_begun:
                return
            try:
                # An ADD that ended after our DEL would leave what nobody takes away.
                ended = await end_programs(self._state_dir, timeout=END_SECONDS)
            except TimeoutError as error:
                raise Broken("a cni plugin that an earlier daemon ran does not die") from error
            if ended:
                _log.warning("ended %d cni plugins that an earlier daemon left at work", ended)
            try:
                # A kubelet sends the ranges once: the template may have come, or changed, since then.
                await self._write_conf(self._ranges.ranges)
            except CribError as error:
                _log.error("%s", error)
            self._has_begun = True

    async def _undo(self, pod: PodNetwork) -> None:
        try:
            await self.detach(pod)
        except CribError as error:
            _log.warning("pod %s: its network is made again all the same: %s", pod.id, error)

    async def _places(self) -> list[tuple[FoundNetwork, NetworkPlace]]:
        found: list[tuple[FoundNetwork, NetworkPlace]] = []
        for directory in self._choice.directories:
            try:
                configured = await self._choice.configured(directory)
            except NoNetworkConf:
                continue  # `readiness` says so
            handler = "" if directory == self._choice.node_directory else directory
            names = interface_names()
            chosen = len(await self._choice.chosen(directory))
            for number, network in enumerate(configured):
                interface = next(names) if number < chosen else ""
                problem = await self._ready.problem_of(network)
                found.append((network, NetworkPlace(interface, handler, problem)))
        return found

    async def _chosen_anywhere(self) -> list[cni.NetworkConf]:
        directories = self._choice.directories
        return [network.conf for path in directories for network in await self._choice.chosen_if_any(path)]

    async def _all_kept(self) -> dict[SandboxId, tuple[Kept, ...]]:
        """What all pods hold; one whose file is torn may hold something of every network."""
        found: dict[SandboxId, tuple[Kept, ...]] = {}
        read = await _with_files("read", "all pods", self._kept.read_all)
        for pod, kept in read.items():
            nobody = PodNetwork(pod, PodMetadata("", "", ""), netns="")
            found[pod] = kept or ()
            for path in self._choice.directories if kept is None else ():
                anything = _asked(nobody, await self._choice.chosen_if_any(path), {}, {})
                found[pod] = (*found[pod], *anything)
        return found

    async def _keep(self, pod: SandboxId, kept: Sequence[Kept]) -> None:
        await _with_files("keep", pod, self._kept.write, pod, kept)

    async def _read_kept(self, pod: PodNetwork) -> tuple[Kept, ...]:
        """Raises TornFile."""
        return await _with_files("read", pod.id, self._kept.read, pod.id)

    async def _kept_or_none(self, pod: PodNetwork) -> tuple[Kept, ...]:
        try:
            return await self._read_kept(pod)
        except TornFile:
            return ()

    async def _kept_or_current(self, pod: PodNetwork) -> tuple[Kept, ...]:
        try:
            return await self._read_kept(pod)
        except TornFile as torn:
            # Better a DEL by today's configuration than an address that nobody gives back.
            _log.warning(
                "pod %s: kept network result is torn, using the current configuration: %s", pod.id, torn
            )
        try:
            networks = await self._choice.chosen(pod.conf_dir)
        except NoNetworkConf as error:
            raise Unavailable(f"detach pod {pod.id}: {error}") from error
        return _asked(pod, networks, {}, {})


async def _with_files(verb: str, owner: str, work: Callable[..., T], *args: object) -> T:
    """A call of the kept results, which block. Broken."""
    what = f"{verb} network result of {owner}"
    with trying(what):
        return await OURS.run(Job(what, owner), work, *args)


def _asked(
    pod: PodNetwork,
    networks: Sequence[FoundNetwork],
    config: Mapping[str, Any],
    had: Mapping[str, tuple[str, ...]],
) -> tuple[Kept, ...]:
    """The attachments that a pod is to have, eth0 first."""
    asked: list[Kept] = []
    for network, interface in zip(networks, interface_names(), strict=False):
        own = dict(of_further_network(config) if asked else config)
        if addresses := had.get(interface):
            own.setdefault("ips", list(addresses))
        asked.append(Kept(network.conf, interface, plugin_arguments(pod), own))
    return tuple(asked)


def _addresses(kept: Kept) -> tuple[str, ...]:
    """Of the attachment's interface, with prefix lengths."""
    result = result_of(kept)
    if result is None:
        return ()
    own = result.addresses_of(kept.interface)
    return tuple(ip.address for ip in result.ips if ip.address.partition("/")[0] in own)


def _ordered(addresses: Sequence[str], preference: str) -> tuple[str, ...]:
    """Without prefix lengths; those of the preferred family first."""
    family = _FAMILIES.get(preference)
    found = [ip_interface(text).ip for text in addresses]
    return tuple(str(one) for one in sorted(found, key=lambda one: family not in (None, one.version)))
