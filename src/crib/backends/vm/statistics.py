"""The port `Statistics`: what containers have on their disks is told by the guest, which alone sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence

from crib.backends.pods.pods import Pods
from crib.backends.shim.statistics import TOGETHER, ShimStatistics
from crib.backends.shim.tools import ShimTools
from crib.backends.vm import guest_calls
from crib.backends.vm.disks import disk_usage_here
from crib.host.threads import OURS
from crib.model.container import ContainerRecord
from crib.model.errors import CribError
from crib.model.ids import ContainerId
from crib.model.image import FilesystemUsage
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord
from crib.model.stats import ContainerUsage
from crib.stubs.vm import guest_pb2
from crib.tasks.groups import all_of

_log = logging.getLogger(__name__)


class VmStatistics(ShimStatistics):
    """A disk that is not mounted, or whose guest does not answer, is as large as its file."""

    def __init__(self, tools: ShimTools, pods: Pods) -> None:
        super().__init__(tools, pods)
        self._guests = tools
        self._paths = tools.environment.paths
        self._at_a_time = asyncio.Semaphore(TOGETHER)

    async def containers(
        self, asked: Sequence[tuple[ContainerRecord, SandboxRecord]], *, whole: bool = False
    ) -> Sequence[ContainerUsage]:
        usages = await super().containers(asked, whole=whole)
        ids = [record.id for record, _ in asked]
        what = f"looking for the disks of {len(ids)} containers"
        with_disk = await OURS.run(what, _with_disk, self._paths, ids)
        told = dict(
            zip(
                with_disk,
                await all_of("disks of containers", (self._written(one) for one in with_disk)),
                strict=True,
            )
        )
        return [
            _with_written(usage, told[one]) if one in told else usage
            for usage, one in zip(usages, ids, strict=True)
        ]

    async def _written(self, container: ContainerId) -> guest_pb2.WrittenResponse:
        try:
            async with self._at_a_time:
                return await guest_calls.written(self._guests, container)
        except CribError as error:
            _log.debug("what container %s has written: %s", container, error)
        at = time.time_ns()
        found = await OURS.run(
            f"measuring the disk of {container}", disk_usage_here, self._paths, container, at
        )
        if found is None:
            return guest_pb2.WrittenResponse()
        return guest_pb2.WrittenResponse(bytes=found.used_bytes, inodes=found.inodes_used)


def _with_disk(paths: Paths, containers: Sequence[ContainerId]) -> list[ContainerId]:
    return [one for one in containers if os.path.exists(paths.disk(one))]


def _with_written(usage: ContainerUsage, said: guest_pb2.WrittenResponse) -> ContainerUsage:
    """Beside what is behind the image's VOLUMEs, on the host."""
    layer, room = usage.writable_layer, usage.room
    if layer is None:
        return usage
    layer = FilesystemUsage(
        layer.mountpoint, layer.used_bytes + said.bytes, layer.inodes_used + said.inodes, time.time_ns()
    )
    if room is not None and said.size:
        free = max(0, said.most_inodes - said.inodes)
        room = room._replace(size=said.size, inodes=said.most_inodes, free_inodes=free)
    return usage._replace(writable_layer=layer, room=room)
