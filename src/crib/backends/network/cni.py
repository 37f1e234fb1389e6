"""Pod networks by CNI plugins (CNI specification, sections 2 to 5).

ADD runs the plugins in order, each with the result of the one before; DEL runs them in reverse with the
kept configuration and result. Loopback is brought up in-process and needs no plugin.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from crib.backends.network.conf_dir import ConfDirectory, NoNetworkConf
from crib.backends.network.interfaces import POD_INTERFACE, bring_loopback_up, interface_usage
from crib.backends.network.kept_results import Kept, KeptResults, TornFile
from crib.backends.network.plugins import Call, PluginFailed, Plugins
from crib.backends.network.runtime_config import plugin_arguments, runtime_config
from crib.model.errors import Broken, CribError, Unavailable
from crib.model.facts import Readiness
from crib.model.ids import SandboxId
from crib.model.sandbox import NetworkAttachment, PodMetadata
from crib.model.stats import InterfaceUsage
from crib.ports import PodNetwork, StageTimer
from crib.wire import cni

_log = logging.getLogger(__name__)

NOT_READY: Final = "NetworkPluginNotReady"
"""The reason that the kubelet looks for in the NetworkReady condition."""


@dataclass(frozen=True, slots=True)
class CniSettings:
    """`state_dir` outlives a reboot, as the plugins' own files do; `plugin_timeout` in seconds a command."""

    conf_dir: str
    bin_dirs: tuple[str, ...]
    state_dir: str
    plugin_timeout: float = 60.0
    handler_conf_dirs: tuple[str, ...] = ()
    """Directories beside `conf_dir` that pods may name, so that they are looked after before one does."""


class CniNetwork:
    """`ports.PodNetworks` by CNI plugins."""

    def __init__(self, settings: CniSettings) -> None:
        self._default_conf_dir = settings.conf_dir
        directories = (settings.conf_dir, *settings.handler_conf_dirs)
        self._conf_dirs = {path: ConfDirectory(path) for path in directories}
        self._plugins = Plugins(settings.bin_dirs, settings.plugin_timeout)
        self._kept = KeptResults(settings.state_dir)
        self._pod_cidr = ""
        self._versions: dict[tuple[str, int, int], tuple[str, ...]] = {}

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Run ADD; what a failed one leaves is undone by `detach`."""
        try:
            network = self._conf_dir(pod.conf_dir).current()
        except NoNetworkConf as error:
            raise Unavailable(f"attach pod {pod.id}: {error}") from error
        kept = Kept(network, POD_INTERFACE, plugin_arguments(pod), runtime_config(pod, self._pod_cidr))
        self._keep(pod.id, kept)
        with stage("network", "loopback"):
            await bring_loopback_up(pod)
        attachment = cni.Attachment(pod.id, pod.netns, kept.interface, kept.args)
        result = cni.Result((), {})
        previous: Mapping[str, Any] | None = None
        for plugin in network.plugins:
            with stage("network", plugin.type):
                stdin = cni.request(network, plugin, kept.runtime_config, previous)
                answer = await self._call(Call("ADD", plugin.type, stdin, attachment), pod.id)
            result = _parsed_result(answer, plugin.type, kept.interface)
            previous = result.raw
        if not result.addresses:
            raise Broken(f"attach pod {pod.id}: network {network.name} gave {kept.interface} no address")
        self._keep(pod.id, replace(kept, result=result.raw))
        return NetworkAttachment(
            addresses=result.addresses, interface=kept.interface, details={"network": network.name}
        )

    async def detach(self, pod: PodNetwork) -> None:
        """Run DEL with what was kept; nothing kept, nothing to do. Goes on after a plugin's failure."""
        kept = self._read_kept(pod)
        if kept is None:
            return
        network = kept.network
        netns = pod.netns if _is_namespace(pod.netns) else ""
        attachment = cni.Attachment(pod.id, netns, kept.interface, kept.args)
        previous = kept.result if network.at_least("0.4.0") else None
        failure: CribError | None = None
        for plugin in reversed(network.plugins):
            stdin = cni.request(network, plugin, kept.runtime_config, previous)
            try:
                await self._call(Call("DEL", plugin.type, stdin, attachment), pod.id)
            except CribError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        self._kept.remove(pod.id)

    async def check(self, pod: PodNetwork) -> None:
        """Run CHECK: Broken if the pod's network is no longer what ADD made it. Needs 0.4.0."""
        kept = self._read_kept(pod)
        if kept is None or kept.result is None:
            raise Broken(f"check network of pod {pod.id}: no result of ADD is kept")
        if kept.network.disable_check or not kept.network.at_least("0.4.0"):
            return
        attachment = cni.Attachment(pod.id, pod.netns, kept.interface, kept.args)
        for plugin in kept.network.plugins:
            stdin = cni.request(kept.network, plugin, kept.runtime_config, kept.result)
            await self._call(Call("CHECK", plugin.type, stdin, attachment), pod.id)

    async def readiness(self) -> Readiness:
        """Ready if there is a network whose plugins are there, speak its version and say they are ready.

        It is the node's network that decides; a handler's own that cannot be used is named in the message.
        """
        try:
            network = self._conf_dir().current()
            for plugin in network.plugins:
                await self._check_version(network, plugin)
            if network.at_least("1.1.0"):
                for plugin in network.plugins:
                    stdin = cni.request(network, plugin, {}, None)
                    await self._plugins.call(Call("STATUS", plugin.type, stdin))
        except (NoNetworkConf, PluginFailed, CribError) as error:
            return Readiness(ready=False, reason=NOT_READY, message=str(error))
        return Readiness(ready=True, message=self._problems_of_handlers())

    async def configure(self, pod_cidr: str) -> None:
        """Tell plugins with the ipRanges capability of the node's range from now on."""
        self._pod_cidr = pod_cidr

    async def usage(self, pod: PodNetwork) -> Sequence[InterfaceUsage]:
        """Counters of the pod's interface; nothing once its namespace is gone."""
        return await interface_usage(pod)

    async def sweep(self, known: Collection[SandboxId]) -> Sequence[str]:
        """DEL for every kept pod that is not known, then GC (1.1.0) for what plugins hold beyond."""
        released: list[str] = []
        for pod_id in self._kept.pods():
            if pod_id in known:
                continue
            try:
                await self.detach(PodNetwork(pod_id, PodMetadata("", "", ""), netns=""))
            except CribError as error:
                _log.warning("network of unknown pod %s stays until the next sweep: %s", pod_id, error)
                continue
            released.append(f"network of pod {pod_id}")
        await self._collect_garbage()
        return released

    async def dismantle(self) -> None:
        """What plugins share between pods is theirs to keep."""

    async def close(self) -> None:
        """Nothing is held open."""

    def _conf_dir(self, path: str = "") -> ConfDirectory:
        path = path or self._default_conf_dir
        return self._conf_dirs.setdefault(path, ConfDirectory(path))

    def _problems_of_handlers(self) -> str:
        problems: list[str] = []
        for path, directory in self._conf_dirs.items():
            if path != self._default_conf_dir:
                try:
                    directory.current()
                except NoNetworkConf as error:
                    problems.append(str(error))
        return "; ".join(problems)

    async def _collect_garbage(self) -> None:
        for directory in self._conf_dirs.values():
            try:
                network = directory.current()
            except NoNetworkConf:
                continue
            await self._collect_garbage_of(network)

    async def _collect_garbage_of(self, network: cni.NetworkConf) -> None:
        if network.disable_gc or not network.at_least("1.1.0"):
            return
        valid = [{"containerID": pod, "ifname": POD_INTERFACE} for pod in self._kept.pods()]
        for plugin in network.plugins:
            stdin = cni.request(network, plugin, {}, None, {"cni.dev/valid-attachments": valid})
            try:
                await self._plugins.call(Call("GC", plugin.type, stdin))
            except (PluginFailed, CribError) as error:
                _log.warning("garbage of network %s stays: %s", network.name, error)

    async def _check_version(self, network: cni.NetworkConf, plugin: cni.Plugin) -> None:
        path = self._plugins.find(plugin.type)
        status = os.stat(path)
        key = (path, status.st_ino, status.st_mtime_ns)
        if key not in self._versions:
            stdin = f'{{"cniVersion":"{network.version}"}}'.encode()
            answer = await self._plugins.call(Call("VERSION", plugin.type, stdin))
            try:
                self._versions[key] = cni.parse_versions(answer)
            except cni.MalformedCni as error:
                raise Broken(f"cni plugin {plugin.type} VERSION: {error}") from error
        if network.version not in self._versions[key]:
            spoken = ", ".join(self._versions[key])
            raise Broken(
                f"cni plugin {plugin.type} speaks {spoken}, network {network.name} is {network.version}"
            )

    async def _call(self, call: Call, pod: SandboxId) -> bytes:
        try:
            return await self._plugins.call(call)
        except PluginFailed as error:
            raise error.as_crib_error(f"pod {pod}") from error
        except CribError as error:
            error.message = f"pod {pod}: {error.message}"
            raise
        except cni.MalformedCni as error:
            raise Broken(f"pod {pod}: cni plugin {call.plugin_type} {call.command}: {error}") from error

    def _keep(self, pod: SandboxId, kept: Kept) -> None:
        try:
            self._kept.write(pod, kept)
        except OSError as error:
            raise Broken(f"keep network result of pod {pod}: {error.strerror} ({error.filename})") from error

    def _read_kept(self, pod: PodNetwork) -> Kept | None:
        try:
            return self._kept.read(pod.id)
        except OSError as error:
            raise Broken(
                f"read network result of pod {pod.id}: {error.strerror} ({error.filename})"
            ) from error
        except TornFile as torn:
            # Better a DEL by today's configuration than an address that nobody gives back.
            _log.warning(
                "pod %s: kept network result is torn, using the current configuration: %s", pod.id, torn
            )
            try:
                network = self._conf_dir(pod.conf_dir).current()
            except NoNetworkConf as error:
                raise Unavailable(f"detach pod {pod.id}: {error}") from error
            return Kept(network, POD_INTERFACE, plugin_arguments(pod), {})


def _parsed_result(answer: bytes, plugin_type: str, interface: str) -> cni.Result:
    try:
        return cni.parse_result(answer, interface)
    except cni.MalformedCni as error:
        raise Broken(f"cni plugin {plugin_type} ADD: {error}") from error


def _is_namespace(path: str) -> bool:
    """Whether a namespace is pinned at the path: a mount of the kernel's nsfs, as /proc/self/ns is."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False
