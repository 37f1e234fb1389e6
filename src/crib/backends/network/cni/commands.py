"""The commands that are about one attachment: ADD, DEL and CHECK of a network's plugins, in their order."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

from crib.backends.network.cni.kept_results import Kept
from crib.backends.network.cni.plugins import UNKNOWN_COMMAND, Call, PluginFailed, Plugins
from crib.model.errors import Broken, CribError, Unavailable
from crib.ports.clocks import StageTimer
from crib.ports.networks import PodNetwork
from crib.wire import cni
from crib.wire.cni_result import Result, converted, parse_result, result_from_document

_log = logging.getLogger(__name__)


class PluginCommands:
    """Runs plugins for one attachment; a pod's attachments are made one after another, pods' side by side."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    async def add(self, pod: PodNetwork, kept: Kept, stage: StageTimer) -> Kept:
        """The attachment with its result. What a failed one leaves is undone by `delete`."""
        network = kept.network
        attachment = cni.Attachment(pod.id, pod.netns, kept.interface, kept.args)
        result: Mapping[str, Any] | None = None
        for plugin in network.plugins:
            with stage("network", plugin.type):
                stdin = cni.request(network, plugin, kept.runtime_config, result)
                result = await self._add(pod, Call("ADD", plugin.type, stdin, attachment), network.version)
        return replace(kept, result=result)

    async def delete(self, pod: PodNetwork, kept: Sequence[Kept]) -> None:
        """Undo attachments, the last one first. Goes on after a failure; all of them are in the error."""
        failures: list[CribError] = []
        netns = pod.netns if is_namespace(pod.netns) else ""
        for one in reversed(kept):
            attachment = cni.Attachment(pod.id, netns, one.interface, one.args)
            previous = _previous(one) if one.network.at_least("0.4.0") else None
            for plugin in reversed(one.network.plugins):
                stdin = cni.request(one.network, plugin, one.runtime_config, previous)
                try:
                    await self._plugins.call(Call("DEL", plugin.type, stdin, attachment))
                except PluginFailed as error:
                    if error.error.code != cni.UNKNOWN_CONTAINER:  # then there is nothing left to undo
                        failures.append(error.as_crib_error(_whose(pod)))
                except CribError as error:
                    failures.append(_about(pod, error))
        if len(failures) > 1:
            raise Broken("; ".join(str(failure) for failure in failures)) from failures[0]
        if failures:
            raise failures[0]

    async def check(self, pod: PodNetwork, kept: Kept) -> str:
        """What the plugins say is wrong; empty also where the network or a plugin cannot check."""
        network = kept.network
        if network.disable_check or not network.at_least("0.4.0"):
            return ""
        attachment = cni.Attachment(pod.id, pod.netns, kept.interface, kept.args)
        previous = _previous(kept)
        for plugin in network.plugins:
            if _had_nothing_to_do(plugin, kept):
                continue
            stdin = cni.request(network, plugin, kept.runtime_config, previous)
            try:
                await self._plugins.call(Call("CHECK", plugin.type, stdin, attachment))
            except PluginFailed as error:
                if error.error.code != UNKNOWN_COMMAND and not _is_of_absent_family(plugin, error, kept):
                    return str(error)
            except CribError as error:
                return str(error)
        return ""

    async def _add(self, pod: PodNetwork, call: Call, version: str) -> Mapping[str, Any]:
        """One plugin's result, in the version of the network: the next plugin need not speak another."""
        try:
            answer = await self._plugins.call(call)
            return converted(parse_result(answer.stdout, version).raw, version)
        except PluginFailed as error:
            raise error.as_crib_error(_whose(pod)) from error
        except cni.MalformedCni as error:
            raise answer.malformed(error, _whose(pod)) from error
        except CribError as error:
            raise _about(pod, error) from error


def result_of(kept: Kept) -> Result | None:
    """The attachment's kept result; None if there is none that can be read."""
    if kept.result is None:
        return None
    try:
        return result_from_document(kept.result)
    except cni.MalformedCni as error:
        _log.warning("kept result of network %s: %s", kept.network.name, error)
        return None


def _had_nothing_to_do(plugin: cni.Plugin, kept: Kept) -> bool:
    """The bandwidth plugin without a limit made nothing, and its CHECK crashes (1.1.1)."""
    limited = kept.grants("bandwidth") or any(key.endswith("gressRate") for key in plugin.raw)
    return plugin.type == "bandwidth" and not limited


def _is_of_absent_family(plugin: cni.Plugin, error: PluginFailed, kept: Kept) -> bool:
    """portmap looks for chains of both families, whatever addresses the pod has (its issue 819)."""
    if plugin.type != "portmap" or (result := result_of(kept)) is None:
        return False
    families = {ip_interface(ip.address).version for ip in result.ips}
    return any(f"ipv{family} " in error.error.message and family not in families for family in (4, 6))


def is_namespace(path: str) -> bool:
    """Whether a namespace is pinned at the path: a mount of the kernel's nsfs, as /proc/self/ns is."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def _whose(pod: PodNetwork) -> str:
    """Who was waiting for RunPodSandbox has never seen the id."""
    name = f" ({pod.metadata.namespace}/{pod.metadata.name})" if pod.metadata.name else ""
    return f"pod {pod.id}{name}"


def _about(pod: PodNetwork, error: CribError) -> CribError:
    kind = Unavailable if isinstance(error, Unavailable) else Broken
    return kind(f"{_whose(pod)}: {error}")


def _previous(kept: Kept) -> Mapping[str, Any] | None:
    if kept.result is None:
        return None
    try:
        return converted(kept.result, kept.network.version)
    except cni.MalformedCni as error:
        _log.warning("network %s: the kept result goes to plugins as it is: %s", kept.network.name, error)
        return kept.result
