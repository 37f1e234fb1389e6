"""What commands leave in containers when the daemon that ran them is killed, and the end of it.

Nobody waits for their outcome any more. Those that are contained (every ExecSync) have a cgroup, which is
the record of them: whoever finds it after a restart ends what is in it. Others were a client's, and go on as
they do when a client goes away.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.failures import trying
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.insides import Insides
from crib.backends.streams.command_names import earlier_name
from crib.host.pidfds import signal_process
from crib.host.strays import programs_with
from crib.host.threads import OURS
from crib.model.ids import ContainerId
from crib.tasks.groups import all_of

_DYING_TIME = 2.0
"""Seconds that all of them together get to die from SIGKILL, and their cgroups to be removed."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What there is in one container."""

    container: ContainerId
    files: tuple[str, ...]
    cgroups: tuple[str, ...]


async def end_earlier_commands(
    environment: OciEnvironment, bundles: Bundles, known: Collection[str]
) -> Sequence[str]:
    """End and remove what is left in those of these that are containers of this handler; says what was."""
    with trying("ending commands of an earlier daemon"):
        found = await OURS.run(
            "looking for commands of an earlier daemon",
            lambda: list(_find(environment, bundles, known)),
        )
        ended = await all_of("earlier commands", (_end(environment, bundles, left) for left in found))
    return [what for what in ended if what]


def _find(environment: OciEnvironment, bundles: Bundles, known: Collection[str]) -> Iterator[_Left]:
    for container in map(ContainerId, known):
        note = bundles.read_note(container)
        if note is None or not environment.owns(note.handler):
            continue
        bundle = environment.paths.container(container)
        files: tuple[str, ...] = ()
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            files = _of_others(bundle, os.listdir(bundle))
        cgroups = _of_others(note.cgroup, environment.cgroups.below(note.cgroup))
        if files or cgroups:
            yield _Left(container, files, cgroups)


def _of_others(directory: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{directory}/{name}" for name in names if earlier_name(name))


async def _end(environment: OciEnvironment, bundles: Bundles, left: _Left) -> str:
    # Where there are files the daemon ended while the runtime was at work, which may be so still.
    await OURS.run("ending runtimes of an earlier daemon", _end_runtimes, left.files)
    await _end_inside(environment, bundles, left)
    rests = await all_of("earlier command", (_end_cgroup(environment, cgroup) for cgroup in left.cgroups))
    await OURS.run("removing files of an earlier daemon's commands", _unlink, left.files)
    alive = ", ".join(rest for rest in rests if rest)
    what = f"{len(rests)} commands of an earlier daemon in container {left.container}" if rests else ""
    return f"{what}, of which do not die: {alive}" if alive else what


async def _end_inside(environment: OciEnvironment, bundles: Bundles, left: _Left) -> None:
    """Those on the pod's own kernel, which a cgroup does not reach: each contained one has a file besides."""
    contained = {os.path.basename(cgroup) for cgroup in left.cgroups}
    inner = [path for path in left.files if os.path.basename(path).removesuffix(".inner") in contained]
    note = await bundles.note(left.container) if inner else None
    if note is not None:
        runtime, insides = environment.runtime_of(note.handler), Insides(environment)
        await all_of("earlier command", (insides.kill(runtime, left.container, path) for path in inner))


def _end_runtimes(files: Iterable[str]) -> None:
    for path in files:
        for pid in programs_with("--process", path) if path.endswith(".json") else ():
            signal_process(pid, signal.SIGKILL)


def _unlink(files: Iterable[str]) -> None:
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


async def _end_cgroup(environment: OciEnvironment, cgroup: str) -> str:
    """Itself if something in it does not die: it goes with the container then."""
    died = await environment.cgroups.kill(cgroup, _DYING_TIME)
    with contextlib.suppress(OSError):
        await environment.cgroups.remove(cgroup, timeout=_DYING_TIME if died else 0)
    return "" if died else cgroup
