"""The pods of manifests, from the first check to running containers.

What runs already is not touched before everything that replaces it is checked and its images are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client import lookup
from crib.client.errors import PodFailure
from crib.client.workloads import files, keeping, pod_volumes
from crib.client.workloads.images import PodImages
from crib.client.workloads.jobs import pods_of
from crib.client.workloads.removal import remove_pod, stop_pod, take_down
from crib.client.workloads.start import PodStart
from crib.stubs.runtime.v1.api_pb2 import SANDBOX_READY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.client.connection import Connection
    from crib.client.pods import Pod
    from crib.client.workloads.start import Listener
    from crib.manifest.plan import Dirs, JobPlan, Plans, PodPlan
    from crib.stubs.runtime.v1.api_pb2 import PodSandbox


class Launch:
    """Runs the pods of manifests: first `prepare` with all of them, then `start` for one after the other."""

    def __init__(
        self, connection: Connection, dirs: Dirs, listener: Listener, *, replace: bool = False
    ) -> None:
        """`replace`: a pod of the same name is stopped and removed just before its successor starts."""
        self._connection = connection
        self._dirs = dirs
        self._listener = listener
        self._replace = replace
        self._replaced: dict[str, list[PodSandbox]] = {}

    async def prepare(self, read: Plans) -> None:
        """Check names and host paths, and bring all images. Makes and removes nothing else. ClientError."""
        plans = read.pods
        existing = await lookup.pods(self._connection)
        if not self._replace:
            labels = {plan.label for plan in plans} | {job.label for job in read.jobs}
            await keeping.refuse_kept(self._connection, labels)
            for job in read.jobs:
                _refuse_pods(job, existing)
        for plan in plans:
            self._replaced[plan.label] = self._in_the_way(plan, existing)
            known = {pod.metadata.uid for pod in self._replaced[plan.label]}
            files.check(plan, replaced=known)
        await pod_volumes.check(self._connection, plans)
        for plan in plans:
            await PodImages(self._connection, plan, self._listener.pull).bring()

    def _in_the_way(self, plan: PodPlan, existing: Sequence[PodSandbox]) -> list[PodSandbox]:
        """The pods that have the plan's name; PodFailure unless they may be replaced."""
        found = []
        for pod in existing:
            same_name = (pod.metadata.namespace, pod.metadata.name) == (plan.namespace, plan.name)
            if not same_name and pod.metadata.uid != plan.uid:
                continue
            if not (self._replace and same_name):
                state = "is still up" if pod.state == SANDBOX_READY else "is there, stopped"
                raise PodFailure(
                    f"pod {lookup.pod_label(pod)} {state}; remove it with crib rm, or use --replace"
                )
            found.append(pod)
        return found

    async def make_way(self, plan: PodPlan) -> None:
        """Stop and remove what a prepared pod replaces."""
        for pod in self._replaced.pop(plan.label):
            await stop_pod(self._connection, pod, self._dirs, None, self._listener.note)
            await remove_pod(self._connection, pod, self._dirs)

    async def make_way_for_job(self, job: JobPlan) -> None:
        """Stop and remove a Job of this name, and the pods that have the names of its first ones."""
        await take_down(self._connection, job.label, self._dirs, None, self._listener.note)
        left = {pod.id for pod in await lookup.pods(self._connection)}
        for turn in job.first():
            plan = job.pod_of(turn)
            self._replaced[plan.label] = [pod for pod in self._replaced[plan.label] if pod.id in left]
            await self.make_way(plan)

    async def start(self, plan: PodPlan, *, keep: bool = False) -> Pod:
        """Remove what a prepared pod replaces, and start it. `keep`: leave it as it is when that fails."""
        await self.make_way(plan)
        return await PodStart(self._connection, plan, self._dirs, self._listener, keep=keep).start()


def _refuse_pods(job: JobPlan, existing: Sequence[PodSandbox]) -> None:
    if found := pods_of(job.label, existing):
        raise PodFailure(
            f"job {job.label} is there, with {len(found)} pods; remove it with crib down, or use --replace"
        )
