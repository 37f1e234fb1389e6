"""`crib wait`: until containers have exited, or a pod or container runs, is there or is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from crib.cli.each import plain_label
from crib.cli.lifecycle_options import Aim
from crib.cli.output import tell
from crib.cli.patience import told
from crib.cli.session import CommandError, say
from crib.cli.times import seconds
from crib.client import ClientError, events, lookup
from crib.client import pods as client_pods
from crib.client.errors import Ambiguous, NotFound
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_EXITED, CONTAINER_RUNNING, SANDBOX_READY

if TYPE_CHECKING:
    from crib.cli.lifecycle_options import WaitOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.lookup import PodOrContainer
    from crib.stubs.runtime.v1.api_pb2 import Container

_LATE = {
    Aim.STOPPED: "still runs",
    Aim.RUNNING: "does not run",
    Aim.EXISTS: "is not there",
    Aim.REMOVED: "is still there",
}


async def wait(session: CliSession, options: WaitOptions) -> None:
    """Wait for all of them at the same time, and tell of each when it is so far."""
    timeout = seconds(options.timeout, "--timeout") if options.timeout else None
    failed: list[Exception] = []
    async with session.connect() as connection:

        async def one(name: str) -> None:
            try:
                async with told(f"waiting for {name}", timeout):
                    lines = await _reached(connection, name, options, timeout)
                for line in lines:
                    tell(line)
            except ClientError as error:
                failed.append(error)
                if len(options.targets) > 1:
                    say(f"crib: {error}")

        await asyncio.gather(*map(one, options.targets))
    if failed and len(options.targets) == 1:
        raise failed[0]
    if failed:
        raise CommandError(f"{len(failed)} of {len(options.targets)} were not waited for")


async def _reached(
    connection: Connection, name: str, options: WaitOptions, timeout: float | None
) -> list[str]:
    """The lines for one that is so far. A target that is to be stopped must be there at the beginning."""
    wanted = name
    if options.aim is Aim.STOPPED:
        wanted = (await lookup.find(connection, name, options.container)).id
        container = ""
    else:
        container = options.container

    async def look() -> list[str] | None:
        try:
            target = await lookup.find(connection, wanted, container)
        except Ambiguous:
            raise
        except NotFound:
            if options.aim is Aim.STOPPED:
                raise NotFound(f"{name} was removed before its exit code could be read") from None
            return [f"{name} is gone"] if options.aim is Aim.REMOVED else None
        return await _look(connection, target, options.aim)

    late = f"{name} {_LATE[options.aim]} after {timeout or 0:g} s"
    return await events.wait_until(connection, look, events.Patience(timeout, late))


async def _look(connection: Connection, target: PodOrContainer, aim: Aim) -> list[str] | None:
    if aim is Aim.EXISTS:
        return [target.label]
    if aim is Aim.REMOVED:
        return None
    own = [target.container] if target.container else await _own(connection, target)
    if aim is Aim.RUNNING:
        is_up = target.pod.state == SANDBOX_READY
        runs = is_up and own and all(container.state == CONTAINER_RUNNING for container in own)
        return [target.label] if runs else None
    if not own or any(container.state != CONTAINER_EXITED for container in own):
        return None if target.pod.state == SANDBOX_READY or own else [target.label]
    codes = [(await client_pods.container_status(connection, one.id)).exit_code for one in own]
    if len(own) == 1:
        return [str(codes[0])]
    return [f"{code} {plain_label(target.pod, one)}" for code, one in zip(codes, own, strict=True)]


async def _own(connection: Connection, target: PodOrContainer) -> list[Container]:
    own = lookup.latest(await lookup.containers(connection, target.pod.id)).values()
    return [one for one in own if not lookup.is_init(one)] or list(own)
