"""The half of a driver that mounts volumes on this node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from crib.backends.failures import foreign, ours, trying
from crib.backends.volumes.csi import places
from crib.backends.volumes.csi.calls import (
    NODE_EXPAND,
    NODE_PUBLISH,
    NODE_STAGE,
    NODE_STATS,
    NODE_UNPUBLISH,
    NODE_UNSTAGE,
)
from crib.backends.volumes.csi.channel import DriverCall, DriverFailed
from crib.backends.volumes.csi.driver import Driver
from crib.backends.volumes.csi.driver_facts import MAX_TEXT, DriverFacts
from crib.backends.volumes.csi.errands import Errand
from crib.backends.volumes.csi.notes import GROWTH, DriverNotes
from crib.backends.volumes.csi.requests import capability, context_of, handle_of, pod_context, reads_only
from crib.host.mount_table import is_mountpoint
from crib.host.threads import Job
from crib.model.errors import Broken
from crib.model.volumes import StageState, VolumePaths, VolumeRecord, VolumeUsage, VolumeUse
from crib.stubs.csi.v1 import csi_pb2 as pb

MOST_LAYERS = 8
"""How often a driver is asked to unmount one path: one that is no good at being asked twice mounts twice."""


class NodeHalf:
    """What one driver's node service does for a volume, by an errand."""

    def __init__(self, driver: Driver, errand: Errand, record: VolumeRecord, paths: VolumePaths) -> None:
        self._driver = driver
        self._errand = errand
        self._record = record
        self._paths = paths
        self._handle = handle_of(record)

    async def stage(self, facts: DriverFacts, attachment: Mapping[str, str], notes: DriverNotes) -> None:
        """After it has been attached."""
        with trying(what := f"making {self._paths.stage}"):
            await ours(Job(what), places.make_stage, self._paths.stage)
        pod = next((use.pod for use in self._record.uses), None)
        request = pb.NodeStageVolumeRequest(
            volume_id=self._handle,
            publish_context=attachment,
            staging_target_path=self._paths.stage,
            volume_capability=capability(self._record.spec, facts, pod),
            secrets=self._errand.secrets,
            volume_context=context_of(self._record),
        )
        await self._driver.ask(NODE_STAGE, request, self._errand)
        if not self._record.spec.block:
            await self._grow(self._paths.stage, notes)

    async def unstage(self) -> None:
        path = self._paths.stage
        request = pb.NodeUnstageVolumeRequest(volume_id=self._handle, staging_target_path=path)
        await self._given_back(NODE_UNSTAGE, request, path)

    async def publish(self, use: VolumeUse, facts: DriverFacts, notes: DriverNotes) -> str:
        """The path that the pod gets."""
        target = self._paths.published(use)
        spec = self._record.spec
        with trying(what := f"making the directory of {target}"):
            await ours(Job(what), places.make_room, target)
        context = context_of(self._record)
        if self._driver.settings.pod_info or spec.inline:
            context.update(pod_context(self._record, use))
        staged = facts.stages and not spec.inline
        request = pb.NodePublishVolumeRequest(
            volume_id=self._handle,
            publish_context=self._record.attachment,
            staging_target_path=self._paths.stage if staged else "",
            target_path=target,
            volume_capability=capability(spec, facts, use.pod),
            readonly=use.read_only or reads_only(spec),
            secrets=self._errand.secrets,
            volume_context=context,
        )
        await self._driver.ask(NODE_PUBLISH, request, self._errand)
        with trying(what := f"looking at {target}"):
            problem = await foreign(Job(what, target), places.problem_at, target, spec.block)
        if problem:
            hint = "" if spec.block else ": what a driver mounts must propagate to crib's mount namespace"
            raise self._driver.bad(NODE_PUBLISH, problem + hint, self._errand)
        if spec.block or not staged:
            await self._grow(target, notes)
        return target

    async def unpublish(self, use: VolumeUse) -> None:
        target = self._paths.published(use)
        request = pb.NodeUnpublishVolumeRequest(volume_id=self._handle, target_path=target)
        await self._given_back(NODE_UNPUBLISH, request, target)

    async def usage(self, facts: DriverFacts) -> VolumeUsage:
        """Nothing where it is neither published nor staged: a driver looks at it where it is mounted."""
        path = self.place(facts)
        if not facts.tells_usage or not path:
            return VolumeUsage()
        request = pb.NodeGetVolumeStatsRequest(
            volume_id=self._handle,
            volume_path=path,
            staging_target_path=self._paths.stage if facts.stages else "",
        )
        answer = await self._driver.ask(NODE_STATS, request, self._errand)
        told = {one.unit: one for one in answer.usage if min(one.total, one.available, one.used) >= 0}
        size, inodes = told.get(pb.VolumeUsage.BYTES), told.get(pb.VolumeUsage.INODES)
        condition = answer.volume_condition
        return VolumeUsage(
            total=size.total if size else None,
            available=size.available if size else None,
            used=size.used if size else None,
            inodes=inodes.total if inodes else None,
            inodes_free=inodes.available if inodes else None,
            inodes_used=inodes.used if inodes else None,
            problem=condition.message[:MAX_TEXT] or "abnormal" if condition.abnormal else "",
        )

    async def expand(self, capacity: int, facts: DriverFacts, notes: DriverNotes) -> int:
        """The node's part: now if it is mounted, else when it will be. Bytes that it has; 0: not known."""
        request = pb.NodeExpandVolumeRequest(
            volume_id=self._handle,
            capacity_range=pb.CapacityRange(required_bytes=capacity),
            staging_target_path=self._paths.stage if facts.stages else "",
            volume_capability=capability(self._record.spec, facts),
        )
        await notes.write(GROWTH, request)
        path = self.place(facts)
        return await self._grow(path, notes) if path else 0

    async def _grow(self, path: str, notes: DriverNotes) -> int:
        """What is left to do of an expansion, if anything."""
        request = await notes.read(GROWTH, pb.NodeExpandVolumeRequest)
        if request is None:
            return 0
        request.volume_path = path
        request.secrets.update(self._errand.secrets)
        answer = await self._driver.ask(NODE_EXPAND, request, self._errand)
        await notes.drop(GROWTH)
        return answer.capacity_bytes

    def place(self, facts: DriverFacts) -> str:
        """Where it is mounted, or is a device; empty where it is not. What is staged of a raw device is the
        driver's own matter.
        """
        if path := next((use.path for use in self._record.uses if use.path), ""):
            return path
        staged = self._record.stage is StageState.STAGED and facts.stages
        return self._paths.stage if staged and not self._record.spec.block else ""

    async def _given_back(self, one: DriverCall[Any], request: Message, path: str) -> None:
        """Ask until nothing is mounted at the path, and remove it. What is not there counts as done."""
        for _ in range(MOST_LAYERS):
            try:
                await self._driver.answer(one, request, self._errand)
            except DriverFailed as failed:
                if failed.code != "NOT_FOUND":
                    raise self._driver.error(one, failed, self._errand) from None
            with trying(what := f"looking for a mount at {path}"):
                if not await ours(Job(what, path), is_mountpoint, path):
                    break
        with trying(what := f"removing {path}"):
            problem = await ours(Job(what, path), places.clear, path)
        if problem:
            raise Broken(f"driver {self._driver.name}: {one.name} of {self._errand.about}: {problem}")
        await ours(Job(what, path), places.clear_above, path, self._paths.passing)
