"""One process of a crowd: callers with a connection each, who all do the same.

    python -m crib.bench.callers     # started by `crowd`

Standard input: an Order as a line of JSON, then a line when it is to begin. Standard output: a line when all
callers are connected, then an Outcome as a line of JSON. When standard input ends before that, the callers
stop. Pods that are left are removed in every case.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from crib.bench.lives import Life
from crib.bench.target import BenchTarget
from crib.bench.turns import first_error
from crib.client import ClientError, Connection
from crib.stubs.runtime.v1.api_pb2 import (
    ListContainersRequest,
    ListContainerStatsRequest,
    ListPodSandboxRequest,
    VersionRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Order:
    """What the callers of a process are to do: lives, so many together, or lists, for some seconds."""

    endpoint: str
    directory: str
    image: str
    handler: str
    callers: int
    lives: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Outcome:
    """What the callers did. `error` is what ended it early, `left` what could not be removed."""

    done: int = 0
    error: str = ""
    left: list[str] = field(default_factory=list)


class Callers:
    """The callers of one process."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._outcome = Outcome()
        self._targets = [
            BenchTarget(str(number), Connection(order.endpoint), order.directory, order.image, order.handler)
            for number in range(order.callers)
        ]

    async def connect(self) -> None:
        """Each of them by a call, as a channel connects no sooner."""
        connections = [target.connection for target in self._targets]
        await asyncio.gather(*(each.call(each.runtime.Version, VersionRequest()) for each in connections))

    async def work(self) -> None:
        """To the end of the order, or to the first failure."""
        left = iter(range(self._order.lives))
        until = time.monotonic() + self._order.seconds
        try:
            async with asyncio.TaskGroup() as group:
                for target in self._targets:
                    group.create_task(
                        self._list(target, until) if self._order.seconds else self._live(target, left)
                    )
        except ExceptionGroup as errors:
            self._outcome.error = str(first_error(errors)) or "too slow"

    async def _live(self, target: BenchTarget, left: Iterator[int]) -> None:
        for _ in left:  # which all callers draw from
            await Life(target).live(use=False)
            self._outcome.done += 1

    async def _list(self, target: BenchTarget, until: float) -> None:
        call, runtime = target.connection.call, target.connection.runtime
        while time.monotonic() < until:
            await call(runtime.ListPodSandbox, ListPodSandboxRequest())
            await call(runtime.ListContainers, ListContainersRequest())
            await call(runtime.ListContainerStats, ListContainerStatsRequest())
            self._outcome.done += 1

    async def end(self) -> Outcome:
        """Remove what remains and close all connections."""
        for target in self._targets:
            self._outcome.left += await target.clean()
            await target.connection.close()
        return self._outcome


async def main() -> None:
    """See the module."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    callers = Callers(Order(**json.loads(await lines.readline())))
    try:
        await callers.connect()
        print("connected", flush=True)
        if await lines.readline():
            working = asyncio.ensure_future(callers.work())
            gone = asyncio.ensure_future(lines.read())
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            await asyncio.wait([working])
            gone.cancel()
    finally:
        outcome = await callers.end()
    print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # the bench's priority is not for the crowd
    try:
        asyncio.run(main())
    except ClientError as error:
        sys.exit(f"{error}")
