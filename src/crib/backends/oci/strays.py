"""What lies under our roots and belongs to nobody that is known.

Most of it has an id and goes by the teardown of containers or pods. What is only a part of something (a
monitor without a bundle, a cgroup below a pod that is known, a monitor's link) is removed by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from crib.backends.oci.environment import OciEnvironment
from crib.host.pidfds import signal_process, start_time
from crib.host.threads import OURS
from crib.model.errors import Broken
from crib.model.ids import ContainerId, SandboxId, is_id
from crib.model.sandbox import ProcessIdentity

_KILL_TIME = 10.0
_COMMAND_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Strays:
    """Ids with leftovers, and parts of containers that are not among them."""

    containers: tuple[ContainerId, ...]
    sandboxes: tuple[SandboxId, ...]
    cgroups: tuple[str, ...] = ()
    monitors: tuple[ProcessIdentity, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """What there is, for people."""
        return [
            *(f"container {container}" for container in self.containers),
            *(f"sandbox {sandbox}" for sandbox in self.sandboxes),
            *(f"cgroup {cgroup}" for cgroup in self.cgroups),
            *(f"monitor {monitor.pid}" for monitor in self.monitors),
            *(f"socket link {link}" for link in self.links),
        ]


def find_strays(environment: OciEnvironment, known: Callable[[], Collection[str]]) -> Strays:
    """Look through directories, exit files, sockets, the runtime's state, monitors and our own cgroups; then
    ask what is known.
    """
    paths, cgroups = environment.paths, environment.cgroups
    names = environment.names
    ours = [name for top in cgroups.directories(names.own) for name in _listed(top)]
    pods: set[str] = {*_ids(paths.sandboxes), *names.pods_among(ours)}
    found: set[str] = set()
    for directory in (paths.containers, paths.writable_layers, paths.exits):
        found.update(_ids(directory))
    for runtime in environment.runtimes():
        found.update(name for name in runtime.known() if is_id(name))
    parts = {pod: set(_containers_in(environment, names.own_pod(pod))) for pod in pods}
    monitors = dict(_monitors(paths.containers))
    links = _listed(paths.monitor_sockets)
    # An infra process is known to the runtime under its sandbox's id.
    found -= pods
    recorded = frozenset(known())
    strays = {ContainerId(name) for name in found - recorded}
    there = {ContainerId(name) for name in recorded} | strays
    return Strays(
        tuple(sorted(strays)),
        tuple(sorted(SandboxId(name) for name in pods - recorded)),
        tuple(
            sorted(
                names.below(names.own_pod(pod), container)
                for pod, inside in parts.items()
                for container in inside - recorded - {pod}
                if pod in recorded
            )
        ),
        tuple(process for process, container in monitors.items() if container not in there),
        tuple(sorted(frozenset(links) - {os.path.basename(paths.monitor_link(name)) for name in there})),
    )


async def remove_parts(environment: OciEnvironment, strays: Strays) -> None:
    """Kill and remove what has no id of its own. Broken when processes do not die."""
    await OURS.run("removing what monitors left", _remove_monitors, environment, strays)
    for cgroup in strays.cgroups:
        if not await environment.cgroups.kill(cgroup, _KILL_TIME):
            raise Broken(f"processes in {cgroup}, which belongs to no container, do not die")
        await environment.cgroups.remove(cgroup)


def _remove_monitors(environment: OciEnvironment, strays: Strays) -> None:
    for monitor in strays.monitors:
        signal_process(monitor.pid, signal.SIGKILL, monitor.start_time)
    for link in strays.links:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{environment.paths.monitor_sockets}/{link}")


def _containers_in(environment: OciEnvironment, pod_cgroup: str) -> Iterator[str]:
    """Ids that the cgroups below a pod's have for names."""
    for top in environment.cgroups.directories(pod_cgroup):
        for name in _listed(top):
            container = name.rpartition("-")[2].removesuffix(".scope")
            if is_id(container) and environment.names.below(pod_cgroup, container).endswith(f"/{name}"):
                yield container


def _monitors(bundles: str) -> Iterator[tuple[ProcessIdentity, str]]:
    """Processes that run with a bundle of ours, as conmon's arguments name it, and whose it is."""
    mark = os.fsencode(f"{bundles}/")
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or names no bundle
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read(_COMMAND_BYTES).split(b"\0")
            bundle = words[words.index(b"--bundle") + 1]
            started = start_time(int(name))
            # The runtime that conmon runs has it in its arguments too, and ends with conmon or by itself.
            if bundle.startswith(mark) and b"--exit-dir" in words and started is not None:
                yield ProcessIdentity(int(name), started), os.fsdecode(bundle.removeprefix(mark))


def _ids(directory: str) -> Iterator[str]:
    """What is named for one, and what a monitor was killed over: it writes `ID.XXXXXX` and renames that."""
    return (name for name in (listed.partition(".")[0] for listed in _listed(directory)) if is_id(name))


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
