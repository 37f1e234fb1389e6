"""Pods that are kept up, for those who stop, start or remove a pod: what is asked of their keeper instead.

Without a keeper's word nothing would last: it starts what somebody else stops.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from crib.client import kept
from crib.client.errors import NotFound, NotOffered, PodFailure, RuntimeFailure, TimedOut
from crib.client.pods import Pod
from crib.stubs.node.v1.node_pb2 import KeepPodRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from crib.client.connection import Connection
    from crib.manifest.plan import Dirs, PodPlan
    from crib.stubs.node.v1.node_pb2 import KeptPod

LOOK_AGAIN = 0.1
"""Seconds between two looks at how a kept pod is."""
PATIENCE = 3600.0
"""Seconds that a kept pod may take to run or to stop, beyond its grace period: it may pull images first."""


async def all_kept(connection: Connection) -> list[KeptPod]:
    """Every pod that is kept up; none at another runtime."""
    try:
        return list((await kept.everything(connection)).pods)
    except NotOffered:
        return []


async def kept_pod(connection: Connection, uid: str) -> KeptPod | None:
    """The kept pod with this uid."""
    return next((pod for pod in await all_kept(connection) if pod.uid == uid), None)


async def named(connection: Connection, name: str) -> KeptPod | None:
    """The kept pod or Job called NAME (in namespace default) or NAMESPACE/NAME."""
    for pod in await all_kept(connection):
        if name in (f"{pod.namespace}/{pod.name}", pod.name if pod.namespace == "default" else ""):
            return pod
    return None


async def keep(connection: Connection, plan: PodPlan, dirs: Dirs) -> Pod:
    """Hand the pod over to the daemon, and wait until it runs. PodFailure when it does not, or not yet."""
    request = KeepPodRequest(
        namespace=plan.namespace,
        name=plan.name,
        uid=plan.uid,
        pods_dir=dirs.root,
        manifest=plan.document,
    )
    await kept.keep(connection, request)
    pod = await follow(connection, plan.uid, is_settled)
    if pod.phase == "Failed" or not (is_up(pod) or pod.phase == "Succeeded"):
        problem = problem_of(pod) or "it has failed"
        state = "has failed" if pod.phase == "Failed" else "does not run, and is tried again"
        raise PodFailure(
            f"pod {plan.label} {state}: {problem} "
            f"(crib kept shows how it is, crib down {plan.label} removes it)"
        )
    return Pod(pod.pod_sandbox_id, plan.sandbox, {one.name: one.id for one in pod.containers if one.id})


async def forget(connection: Connection, uid: str) -> bool:
    """Keep it up no longer; False when it is not."""
    pod = await kept_pod(connection, uid)
    if pod is not None:
        await kept.forget(connection, pod)
    return pod is not None


async def stop(connection: Connection, uid: str, grace: int | None = None) -> bool:
    """Have its keeper stop it, and wait until nothing of it runs; False when it is not kept up."""
    pod = await kept_pod(connection, uid)
    if pod is None:
        return False
    await kept.want(connection, pod, run=False, grace=grace)
    await follow(connection, uid, lambda now: now.phase == "Stopped", PATIENCE + (grace or 0))
    return True


async def start(connection: Connection, uid: str) -> bool:
    """Have its keeper run it (anew), and wait until it does; False when it is not kept up."""
    pod = await kept_pod(connection, uid)
    if pod is None:
        return False
    await kept.want(connection, pod, run=True)
    await follow(connection, uid, is_settled)
    return True


async def follow(
    connection: Connection, uid: str, done: Callable[[KeptPod], bool], seconds: float = PATIENCE
) -> KeptPod:
    """Wait until `done`. NotFound when it is forgotten, TimedOut, RuntimeFailure when nobody keeps it up."""
    deadline = time.monotonic() + seconds
    while True:
        everything = await kept.everything(connection)
        pod = next((one for one in everything.pods if one.uid == uid), None)
        if pod is None:
            raise NotFound("the pod is not kept up any more")
        if done(pod):
            return pod
        if everything.problem:
            raise RuntimeFailure(f"nobody keeps pods up: {everything.problem}")
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"pod {pod.namespace}/{pod.name} is {pod.phase or 'as it was'} after {seconds:g} s"
            )
        await asyncio.sleep(LOOK_AGAIN)


def is_settled(pod: KeptPod) -> bool:
    """Whether it runs, has ended, or cannot go on for now."""
    return is_up(pod) or pod.phase in ("Succeeded", "Failed") or bool(problem_of(pod))


def is_up(pod: KeptPod) -> bool:
    """Whether all of it runs that is to run."""
    return pod.phase == "Running" and all(
        one.state == "Running" or one.state.startswith("Exited (0)") for one in pod.containers
    )


def problem_of(pod: KeptPod) -> str:
    """What hinders it, as far as that is known."""
    return pod.message or next((one.message for one in pod.containers if one.message), "")


async def refuse_kept(connection: Connection, labels: Collection[str]) -> None:
    """PodFailure when a pod of such a name is kept up: one would go on to replace the other."""
    for pod in await all_kept(connection):
        if f"{pod.namespace}/{pod.name}" in labels:
            label = f"{pod.namespace}/{pod.name}"
            raise PodFailure(f"pod {label} is kept up; remove it with crib down, or use --replace")
