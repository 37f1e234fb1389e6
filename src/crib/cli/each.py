"""One act on each of the pods and containers that a person named."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.output import tell
from crib.cli.session import CommandError, say
from crib.client import ClientError, lookup
from crib.client.errors import NotFound
from crib.client.workloads import keeping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.lookup import PodOrContainer
    from crib.stubs.node.v1.node_pb2 import KeptPod
    from crib.stubs.runtime.v1.api_pb2 import Container, PodSandbox

AT_ONCE = 16
"""Acts at the same time: a stop may last as long as its grace period."""
_ID = re.compile(r"(?<![0-9a-f:])([0-9a-f]{12})[0-9a-f]{52}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Act:
    """What is done to each: `one` returns the line that tells of it. `done` is the past participle of it."""

    done: str
    one: Callable[[Connection, PodOrContainer], Awaitable[str]]
    together: bool = False
    """All at the same time, not one after the other."""
    unit: Callable[[Connection, KeptPod], Awaitable[str]] | None = None
    """The same for a Job, or for a pod that is kept up and has no sandbox now."""


async def each(session: CliSession, names: Sequence[str] | None, container: str, act: Act) -> None:
    """Do it to each name (None: every pod). Continues after a failure, and fails at the end."""
    failures: list[Exception] = []
    async with session.connect() as connection:
        wanted = list(names) if names else [pod.id for pod in await lookup.pods(connection)]
        gate = asyncio.Semaphore(AT_ONCE if act.together else 1)

        async def one(name: str) -> None:
            async with gate:
                try:
                    tell(await _one(connection, name, container, act))
                except (ClientError, CommandError, OSError) as error:
                    failures.append(error)
                    if len(wanted) > 1:
                        say(f"crib: {error}")

        async with asyncio.TaskGroup() as group:
            for name in wanted:
                group.create_task(one(name))
    if failures and len(wanted) == 1:
        raise failures[0]
    if failures:
        raise CommandError(f"{len(failures)} of {len(wanted)} were not {act.done}")


async def _one(connection: Connection, name: str, container: str, act: Act) -> str:
    try:
        target = await lookup.find(connection, name, container)
    except NotFound:
        unit = await keeping.named(connection, name) if act.unit is not None and not container else None
        if unit is None or act.unit is None:
            raise
        return await act.unit(connection, unit)
    with naming(target):
        return await act.one(connection, target)


@contextlib.contextmanager
def naming(target: PodOrContainer) -> Iterator[None]:
    """Errors of the runtime have the names that a person knows in them, and no id in full."""
    try:
        yield
    except ClientError as error:
        text = error.message.replace(target.pod.id, plain_label(target.pod))
        if target.container is not None:
            text = text.replace(target.container.id, plain_label(target.pod, target.container))
        error.message = _ID.sub(r"\1", text)
        error.args = (error.message,)
        raise


def plain_label(pod: PodSandbox, container: Container | None = None) -> str:
    """NAMESPACE/NAME, or NAMESPACE/POD/CONTAINER."""
    label = f"{pod.metadata.namespace}/{pod.metadata.name}"
    return f"{label}/{container.metadata.name}" if container else label
