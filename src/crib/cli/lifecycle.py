"""`crib stop` and `crib rm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.output import tell
from crib.cli.session import CommandError, say
from crib.client import ClientError, lookup
from crib.client import pods as client_pods
from crib.client.workloads.removal import grace_of, remove_pod
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1.api_pb2 import SANDBOX_READY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crib.cli.options import RmOptions, StopOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.runtime.v1.api_pb2 import PodSandbox


async def stop(session: CliSession, options: StopOptions) -> None:
    """Stop each pod with its own grace period, or with the one on the command line."""

    async def one(connection: Connection, pod: PodSandbox) -> None:
        grace = options.time if options.time is not None else await grace_of(connection, pod)
        await client_pods.stop(connection, pod.id, grace)

    await _each(session, options.pods, "stopped", one)


async def remove(session: CliSession, options: RmOptions) -> None:
    """Remove each pod, and the files that `crib run` made for it."""
    if bool(options.pods) == options.every:
        raise CommandError("name the pods to remove, or use --all", exit_code=2)
    dirs = Dirs(session.pods_dir)

    async def one(connection: Connection, pod: PodSandbox) -> None:
        if pod.state == SANDBOX_READY and not options.force:
            raise ClientError(f"pod {lookup.pod_label(pod)} is running; stop it first, or use --force")
        await remove_pod(connection, pod, dirs)

    await _each(session, options.pods, "removed", one)


async def _each(
    session: CliSession,
    names: list[str] | None,
    done: str,
    work: Callable[[Connection, PodSandbox], Awaitable[None]],
) -> None:
    """Do `work` for each named pod (None: all). Continues after a failure, and fails at the end."""
    failed = 0
    async with session.connect() as connection:
        everything = await lookup.pods(connection)
        wanted = names if names else [pod.id for pod in everything]
        for name in wanted:
            try:
                pod = lookup.pick_pod(everything, name)
                await work(connection, pod)
            except (ClientError, OSError) as error:
                if len(wanted) == 1:
                    raise
                say(f"crib: {error}")
                failed += 1
            else:
                tell(f"{done} {lookup.pod_label(pod)}")
    if failed:
        raise CommandError(f"{failed} of {len(wanted)} pods were not {done}")
