"""Jobs that are kept up, and the pods that belong to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client import kept, lookup
from crib.client.errors import NotFound, PodFailure
from crib.client.workloads import keeping
from crib.manifest.jobs import JOB_NAME, JOB_UID
from crib.stubs.node.v1.node_pb2 import KeepPodRequest, KeptPod

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crib.client.connection import Connection
    from crib.manifest.plan import Dirs, JobPlan
    from crib.stubs.runtime.v1.api_pb2 import PodSandbox


def job_of(pod: PodSandbox) -> str:
    """NAMESPACE/NAME of the Job that crib made the pod for; empty when there is none."""
    name = pod.labels.get(JOB_NAME, "")
    return f"{pod.metadata.namespace}/{name}" if name and not lookup.is_kubelets(pod) else ""


def pods_of(label: str, existing: Iterable[PodSandbox]) -> list[PodSandbox]:
    """Those of a Job."""
    return [pod for pod in existing if job_of(pod) == label]


async def kept_job(connection: Connection, pod: PodSandbox) -> KeptPod | None:
    """The Job of this pod, if it is kept up."""
    return await keeping.kept_pod(connection, pod.labels[JOB_UID]) if job_of(pod) else None


async def keep_job(connection: Connection, job: JobPlan, dirs: Dirs) -> KeptPod:
    """Hand the Job over to the daemon, and wait until it has begun, unless it is suspended.

    PodFailure when it cannot begin, or not yet. One that has ended and was removed before
    anybody looked, as its ttlSecondsAfterFinished wants, has the phase Removed.
    """
    request = KeepPodRequest(
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        pods_dir=dirs.root,
        manifest=job.document,
    )
    await kept.keep(connection, request)
    try:
        found = await keeping.follow(connection, job.uid, _has_begun)
    except NotFound:
        if job.ttl is None:
            raise
        return KeptPod(namespace=job.namespace, name=job.name, uid=job.uid, phase="Removed")
    if found.phase in ("Running", "Succeeded", "Suspended"):
        return found
    state = "has failed" if found.phase == "Failed" else "does not run, and is tried again"
    raise PodFailure(
        f"job {job.label} {state}: {keeping.problem_of(found) or 'there is no reason'} "
        f"(crib kept shows how it is, crib down {job.label} removes it)"
    )


def _has_begun(found: KeptPod) -> bool:
    is_settled = found.phase in ("Running", "Succeeded", "Failed", "Suspended")
    return is_settled or any(one.message for one in found.containers)
