"""What monitors left under our roots, beside what has an id of its own (see `pods.strays`)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from crib.backends.oci.environment import OciEnvironment
from crib.backends.pods.strays import Strays, find_strays, listed, remove_cgroups
from crib.host.pidfds import signal_process, start_time
from crib.host.threads import OURS
from crib.model.ids import ContainerId
from crib.model.sandbox import ProcessIdentity

_COMMAND_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class OciStrays:
    """With monitors without a bundle, and their links."""

    known: Strays
    monitors: tuple[ProcessIdentity, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """What there is, for people."""
        return [
            *self.known.words,
            *(f"monitor {monitor.pid}" for monitor in self.monitors),
            *(f"socket link {link}" for link in self.links),
        ]


def find_oci_strays(environment: OciEnvironment, known: Callable[[], Collection[str]]) -> OciStrays:
    """Look through all that there is of containers, monitors and their sockets; then ask what is known."""
    paths = environment.paths
    monitors = dict(_monitors(paths.containers))
    links = listed(paths.monitor_sockets)
    made = (name for runtime in environment.runtimes() for name in runtime.known())
    strays = find_strays(environment, made, known)
    kept = frozenset(os.path.basename(paths.monitor_link(ContainerId(name))) for name in strays.there)
    return OciStrays(
        strays,
        tuple(process for process, container in monitors.items() if container not in strays.there),
        tuple(sorted(frozenset(links) - kept)),
    )


async def remove_parts(environment: OciEnvironment, strays: OciStrays) -> None:
    """Kill and remove what has no id of its own. Broken when processes do not die."""
    await OURS.run("removing what monitors left", _remove_monitors, environment, strays)
    await remove_cgroups(environment, strays.known)


def _remove_monitors(environment: OciEnvironment, strays: OciStrays) -> None:
    for monitor in strays.monitors:
        signal_process(monitor.pid, signal.SIGKILL, monitor.start_time)
    for link in strays.links:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{environment.paths.monitor_sockets}/{link}")


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
