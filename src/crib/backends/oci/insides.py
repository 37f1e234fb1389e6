"""Asking a runtime about what runs on a pod's own kernel, where this host sees no process (gVisor)."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Mapping

from crib.backends.known_processes import read_pid
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.inside_programs import InsidePrograms
from crib.backends.runtime_words import runtime_words
from crib.host.processes import Completed
from crib.host.threads import OURS, Job
from crib.model.ids import ContainerId
from crib.tasks.groups import all_of

_log = logging.getLogger(__name__)

_FAMILY = 1000
"""Processes of one command that are killed at most: each takes a program."""


class Insides:
    """Each question starts the runtime's program once (25 ms)."""

    def __init__(self, environment: OciEnvironment) -> None:
        self._env = environment
        self._programs = InsidePrograms()

    async def kill(self, runtime: RuntimeProgram, container: ContainerId, pid_file: str) -> None:
        """Kill the command whose inner pid is in that file, and what it has started; a missing file: nothing.

        What has ended meanwhile is no failure.
        """
        job = Job(f"reading {pid_file}", owner=container)
        try:
            first = await OURS.run(job, read_pid, pid_file)
        except (OSError, ValueError):
            return
        table = await self._run(container, runtime.processes(container))
        pids = family(first, parents(table.stdout.decode("utf-8", "replace")))
        await all_of("killing commands", (self._kill(runtime, container, pid) for pid in pids))

    async def _kill(self, runtime: RuntimeProgram, container: ContainerId, pid: int) -> None:
        killed = await self._run(container, runtime.kill_inner(container, pid, signal.SIGKILL))
        if killed.exit_code != 0:
            words = runtime_words(killed.stderr.decode("utf-8", "replace"))
            _log.debug("killing process %d in container %s: %s", pid, container, words)

    async def _run(self, container: ContainerId, argv: tuple[str, ...]) -> Completed:
        return await self._programs.run(container, argv, self._env.settings.verb_timeout)


def parents(table: str) -> Mapping[int, int]:
    """The parent of each process in a table with columns PID and PPID (runsc ps)."""
    head, *lines = [line.split() for line in table.splitlines()] or [[]]
    if not {"PID", "PPID"} <= set(head):
        return {}
    own, above = head.index("PID"), head.index("PPID")
    rows = (line for line in lines if len(line) > max(own, above))
    return {int(row[own]): int(row[above]) for row in rows if row[own].isdigit() and row[above].isdigit()}


def family(first: int, parent_of: Mapping[int, int]) -> Iterable[int]:
    """The process and its descendants, parents first."""
    found = [first]
    for pid in found:
        found += [child for child, parent in parent_of.items() if parent == pid and child not in found]
        if len(found) > _FAMILY:
            break
    return found[:_FAMILY]
