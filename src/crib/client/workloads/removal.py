"""The end of a pod that was made from a manifest: its grace period, its removal, and that of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client import kept, lookup
from crib.client import pods as client_pods
from crib.client.errors import ClientError
from crib.client.workloads import files, keeping, pod_volumes
from crib.client.workloads.ending import PodEnd
from crib.client.workloads.jobs import job_of
from crib.client.workloads.site import read_site
from crib.manifest.behaviour import DEFAULT_GRACE
from crib.manifest.container import GRACE
from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1.api_pb2 import SANDBOX_READY

if TYPE_CHECKING:
    from collections.abc import Callable

    from crib.client.connection import Connection
    from crib.manifest.plan import PodPlan
    from crib.stubs.runtime.v1.api_pb2 import PodSandbox

MAX_GRACE = 24 * 3600
"""Seconds of a grace period that are believed."""


async def grace_of(connection: Connection, pod: PodSandbox) -> int:
    """The pod's grace period in seconds, from its containers' annotations."""
    for container in await lookup.containers(connection, pod.id):
        text = container.annotations.get(GRACE, "")
        if text.isdecimal():
            return min(int(text), MAX_GRACE)
    return DEFAULT_GRACE


async def stop_pod(
    connection: Connection, pod: PodSandbox, dirs: Dirs, grace: int | None, told: Callable[[str], None]
) -> None:
    """Stop a pod with its hooks; who keeps it up stops it, and leaves it so.

    `grace` in seconds, None for the pod's own. `told` gets a line for each hook that failed.
    """
    if await keeping.stop(connection, pod.metadata.uid, grace):
        return
    seconds = await grace_of(connection, pod) if grace is None else grace
    plan = _plan_of(pod, dirs)
    if plan is None or pod.state != SANDBOX_READY:
        await client_pods.stop(connection, pod.id, seconds)
    else:
        await PodEnd(connection, plan, told).end(pod.id, seconds)


def _plan_of(pod: PodSandbox, dirs: Dirs) -> PodPlan | None:
    """What the pod was made from, if `crib run` made it here."""
    text = files.manifest_of(dirs, pod.metadata.uid)
    if not text:
        return None
    try:
        plans = read_plans(text, read_site(dirs.root, hide_secrets=True), lambda: pod.metadata.uid).pods
    except ManifestError:
        return None  # made by another version
    return next((plan for plan in plans if plan.uid == pod.metadata.uid), None)


async def remove_pod(connection: Connection, pod: PodSandbox, dirs: Dirs) -> None:
    """Kill and remove a pod, then its files on the node. It is kept up no longer."""
    await keeping.forget(connection, pod.metadata.uid)
    if pod.state == SANDBOX_READY:
        await client_pods.stop(connection, pod.id, grace=0)
    await client_pods.remove(connection, pod.id)
    await pod_volumes.detach(connection, dirs, pod.metadata.uid)


async def take_down(
    connection: Connection, label: str, dirs: Dirs, grace: int | None, told: Callable[[str], None]
) -> bool:
    """Stop and remove the pod or Job of this name with its files, kept up or not; False if there is none."""
    there = False
    for pod in await keeping.all_kept(connection):
        if f"{pod.namespace}/{pod.name}" == label:
            there = True
            try:
                await keeping.stop(connection, pod.uid, grace)
            except ClientError as error:
                told(f"crib: {error}")  # without its keeper: what runs of it is stopped below
            await kept.forget(connection, pod)
            if not pod.pod_sandbox_id:
                # a Job's record, or a pod that never had a sandbox
                await pod_volumes.detach(connection, Dirs(pod.pods_dir), pod.uid)
    for sandbox in await lookup.pods(connection):
        if label in (f"{sandbox.metadata.namespace}/{sandbox.metadata.name}", job_of(sandbox)):
            there = True
            await stop_pod(connection, sandbox, dirs, grace, told)
            await remove_pod(connection, sandbox, dirs)
    return there
