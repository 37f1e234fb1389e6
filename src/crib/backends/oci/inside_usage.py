"""What containers use on a pod's own kernel, by that kernel's word: this host sees the pod as a whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from crib.backends.known_processes import is_alive
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.inside_programs import InsidePrograms
from crib.model.container import ContainerRecord
from crib.model.stats import CgroupUsage, CpuUsage, MemoryUsage
from crib.tasks.groups import all_of
from crib.wire.oci_events import decode_stats

_log = logging.getLogger(__name__)

TIME_LIMIT = 5.0
"""Seconds for one of them: who asks for statistics asks again."""


class InsideUsage:
    """By the runtime's `events --stats`, a program for each container that runs."""

    def __init__(self, environment: OciEnvironment) -> None:
        self._env = environment
        self._programs = InsidePrograms()

    async def of(self, records: Sequence[ContainerRecord]) -> Sequence[CgroupUsage]:
        """Of each; nothing of one that does not run, or whose kernel does not answer."""
        return await all_of("usage of containers", (self._of(record) for record in records))

    async def _of(self, record: ContainerRecord) -> CgroupUsage:
        if not is_alive(record.process):
            return CgroupUsage()
        said = await self._programs.run(record.id, self._env.runtime.usage(record.id), TIME_LIMIT)
        at = time.time_ns()
        try:
            found = decode_stats(said.stdout)
        except ValueError:
            _log.debug("usage of container %s: %s", record.id, said.stderr.decode("utf-8", "replace"))
            return CgroupUsage()
        cpu, memory = found.cpu, found.memory
        # The kernel inside tells no file pages apart: all of its memory counts. With runsc that is the pod's,
        # as is its number of processes, which is left out.
        used = memory.usage.usage if memory is not None else 0
        return CgroupUsage(
            cpu=CpuUsage(at, cpu.usage.total) if cpu is not None else None,
            memory=MemoryUsage(at, used, working_set=used) if memory is not None else None,
        )
