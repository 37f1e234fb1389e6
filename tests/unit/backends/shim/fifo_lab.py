"""First processes without a shim: the test itself is at the other end of their fifos, as a shim would be."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.nouns import Ended, Stdio
from crib.host.threads import OURS
from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId, new_container_id
from crib.model.paths import Paths
from crib.wire.crilog import LineJoiner
from tests.contract.records_samples import full_container

BOUND = 30.0


@dataclass
class Shim:
    """Says what a shim would, and notes what it is told."""

    told: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    code: int = 0

    async def of(self, container: ContainerId) -> Any:
        return self

    async def close_io(self, container: str, exec_id: str = "") -> None:
        self.told.append("close_io")

    async def resize_pty(self, container: str, width: int, height: int, exec_id: str = "") -> None:
        self.told.append(f"{width}x{height}")

    async def wait(self, container: str, exec_id: str = "") -> Ended:
        await self.ended.wait()
        return Ended(self.code, 0)


@dataclass
class Ends:
    """The shim's ends of a container's fifos, both sides of each as runc's shim has them."""

    stdout: int
    stderr: int
    held: list[int]

    @classmethod
    def open(cls, stdio: Stdio) -> Ends:
        out, err = (os.open(path, os.O_WRONLY) for path in (stdio.stdout, stdio.stderr))
        return cls(out, err, [os.open(path, os.O_RDONLY) for path in (stdio.stdout, stdio.stderr)])

    def close(self) -> None:
        for fd in (self.stdout, self.stderr, *self.held):
            os.close(fd)


@dataclass
class FifoLab:
    """Daemons, one after another, in one place."""

    top: Path
    shim: Shim = field(default_factory=Shim)

    def __post_init__(self) -> None:
        self.paths = Paths(str(self.top / "data"), str(self.top / "run"))
        (self.top / "logs").mkdir()

    @contextlib.asynccontextmanager
    async def daemon(self) -> AsyncIterator[FirstProcesses]:
        first = FirstProcesses(self.paths, self.shim, str(self.top / "chunks"))
        try:
            yield first
        finally:
            async with asyncio.timeout(BOUND):
                await first.close()

    def record(self, name: str = "0", **config: Any) -> ContainerRecord:
        made = full_container()
        plain = replace(made.config, tty=False, stdin=False, stdin_once=False)
        record = replace(
            made,
            id=new_container_id(),
            log_path=str(self.top / "logs" / f"{name}.log"),
            config=replace(plain, **config),
        )
        os.makedirs(self.paths.container(record.id))
        return record


async def write_all(fd: int, data: bytes) -> None:
    """In a thread, as it waits for a reader."""

    def work() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]

    async with asyncio.timeout(BOUND):
        await OURS.run("writing as a container", work)


def lines(log: str | Path, stream: str = "") -> list[bytes]:
    """Whole lines of a log, joined."""
    joiner = LineJoiner()
    found = [*joiner.receive(Path(log).read_bytes()), *joiner.finish()]
    return [line.content for line in found if stream in ("", line.stream)]
