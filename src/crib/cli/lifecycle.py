"""`crib start`, `stop`, `restart`, `kill` and `rm`, each of pods and of containers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from crib.cli.each import Act, each
from crib.cli.patience import told
from crib.cli.session import CommandError, say
from crib.client import ClientError, attempts, lookup
from crib.client import pods as client_pods
from crib.client.workloads import keeping
from crib.client.workloads.jobs import kept_job
from crib.client.workloads.removal import grace_of, remove_pod, stop_pod
from crib.manifest.behaviour import DEFAULT_GRACE
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_CREATED,
    CONTAINER_EXITED,
    CONTAINER_RUNNING,
    SANDBOX_READY,
    RemoveContainerRequest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.lifecycle_options import KillOptions, RestartOptions, RmOptions, StartOptions, StopOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.lookup import PodOrContainer
    from crib.stubs.node.v1.node_pb2 import KeptPod
    from crib.stubs.runtime.v1.api_pb2 import Container, PodSandbox


async def start(session: CliSession, options: StartOptions) -> None:
    """Start each pod or container."""

    async def unit(connection: Connection, found: KeptPod) -> str:
        await keeping.start(connection, found.uid)
        return f"started {found.namespace}/{found.name}"

    async def one(connection: Connection, target: PodOrContainer) -> str:
        _refuse_kubelets(target.pod, "crib stop ends a container, and the kubelet starts it again")
        if target.container is not None:
            await attempts.start_container(connection, target.pod, target.container)
            return f"started {target.label}"
        if (job := await kept_job(connection, target.pod)) is not None:
            return await unit(connection, job)
        if await keeping.start(connection, target.pod.metadata.uid):
            return f"started {target.label}"
        pod_id, started = await attempts.start_pod(connection, target.pod)
        label = lookup.label_of(target.pod, pod_id)
        return f"started {label}" if started else f"{label} runs already"

    await each(session, options.targets, options.container, Act("started", one, unit=unit))


async def stop(session: CliSession, options: StopOptions) -> None:
    """Stop each with its pod's grace period, or with the one on the command line."""
    _check_names(options.targets, every=options.every, what="stop")
    dirs = Dirs(session.pods_dir)

    async def unit(connection: Connection, found: KeptPod) -> str:
        async with told(f"stopping {found.namespace}/{found.name}", options.time or DEFAULT_GRACE):
            await keeping.stop(connection, found.uid, options.time)
        return f"stopped {found.namespace}/{found.name}"

    async def one(connection: Connection, target: PodOrContainer) -> str:
        grace = options.time if options.time is not None else await grace_of(connection, target.pod)
        if target.container is None and (job := await kept_job(connection, target.pod)) is not None:
            return await unit(connection, job)
        async with told(f"stopping {target.label}", grace):
            if target.container is None:
                await stop_pod(connection, target.pod, dirs, options.time, say)
            else:
                await client_pods.stop_container(connection, target.container.id, grace)
        return f"stopped {target.label}"

    await each(session, options.targets, options.container, Act("stopped", one, together=True, unit=unit))


async def restart(session: CliSession, options: RestartOptions) -> None:
    """Stop what runs, and start it anew."""

    async def unit(connection: Connection, found: KeptPod) -> str:
        await keeping.start(connection, found.uid)
        return f"restarted {found.namespace}/{found.name}"

    async def one(connection: Connection, target: PodOrContainer) -> str:
        pod = target.pod
        _refuse_kubelets(pod, "crib stop ends a container, and the kubelet starts it again")
        if target.container is None:
            if (job := await kept_job(connection, pod)) is not None:
                return await unit(connection, job)
            if await keeping.start(connection, pod.metadata.uid):
                return f"restarted {target.label}"
        if target.container is None and pod.state != SANDBOX_READY:
            pod_id, _started = await attempts.pod_again(connection, pod)
            return f"restarted {lookup.label_of(pod, pod_id)}"
        chosen = [target.container] if target.container else await _to_restart(connection, pod)
        grace = options.time if options.time is not None else await grace_of(connection, pod)
        running = [found for found in chosen if found.state == CONTAINER_RUNNING]
        stops = (client_pods.stop_container(connection, found.id, grace) for found in running)
        await asyncio.gather(*stops)
        for found in running:
            found.state = CONTAINER_EXITED
        for found in chosen:
            await attempts.start_container(connection, pod, found)
        return f"restarted {target.label}"

    await each(session, options.targets, options.container, Act("restarted", one, unit=unit))


async def _to_restart(connection: Connection, pod: PodSandbox) -> list[Container]:
    own = lookup.latest(await lookup.containers(connection, pod.id)).values()
    return [one for one in own if not lookup.is_init(one)]


async def kill(session: CliSession, options: KillOptions) -> None:
    """SIGKILL, which StopContainer sends if no time is given to end before."""
    if options.signal.upper().removeprefix("SIG") not in ("KILL", "9"):
        raise CommandError(
            f"the CRI cannot carry signal {options.signal}, only KILL; send it from inside: "
            f"crib exec TARGET -- kill -s {options.signal.upper().removeprefix('SIG')} 1",
            2,
        )

    async def one(connection: Connection, target: PodOrContainer) -> str:
        if target.container is not None:
            found = [target.container]
        else:
            found = await lookup.containers(connection, target.pod.id)
        running = [container for container in found if container.state == CONTAINER_RUNNING]
        if not running:
            raise ClientError(f"nothing runs in {target.label}")
        await asyncio.gather(*(client_pods.stop_container(connection, one.id, 0) for one in running))
        return f"killed {target.label}"

    await each(session, options.targets, options.container, Act("killed", one, together=True))


async def remove(session: CliSession, options: RmOptions) -> None:
    """Remove each pod with the files that `crib run` made for it, or each container."""
    _check_names(options.targets, every=options.every, what="remove")
    dirs = Dirs(session.pods_dir)

    async def one(connection: Connection, target: PodOrContainer) -> str:
        if target.container is not None:
            await _remove_container(connection, target, force=options.force)
            return f"removed {target.label}"
        own = await lookup.containers(connection, target.pod.id)
        if not options.force and not lookup.has_ended(target.pod, own):
            raise ClientError(
                f"pod {lookup.pod_label(target.pod)} {_still_up(own)}; stop it first, or use --force"
            )
        await remove_pod(connection, target.pod, dirs)
        return f"removed {target.label}"

    await each(session, options.targets, options.container, Act("removed", one))


def _check_names(names: Sequence[str] | None, *, every: bool, what: str) -> None:
    if bool(names) == every:
        raise CommandError(f"name the pods to {what}, or use --all", exit_code=2)


def _still_up(own: Sequence[Container]) -> str:
    """What of the pod runs, in words."""
    latest = [one for one in lookup.latest(own).values() if not lookup.is_init(one)]
    running = sum(one.state == CONTAINER_RUNNING for one in latest)
    if not running:
        return f"is still up (0 of {len(latest)} containers running)"
    return f"is running ({running} of {len(latest)} containers)"


async def _remove_container(connection: Connection, target: PodOrContainer, *, force: bool) -> None:
    container = target.container
    assert container is not None
    if container.state not in (CONTAINER_EXITED, CONTAINER_CREATED):
        if not force:
            state = lookup.state_of(container)
            raise ClientError(f"container {target.label} is {state}; stop it first, or use --force")
        await client_pods.stop_container(connection, container.id, 0)
    request = RemoveContainerRequest(container_id=container.id)
    await connection.call(connection.runtime.RemoveContainer, request)


def _refuse_kubelets(pod: PodSandbox, instead: str) -> None:
    if lookup.is_kubelets(pod):
        raise ClientError(
            f"pod {lookup.pod_label(pod)} belongs to a kubelet, which starts it itself: {instead}"
        )
