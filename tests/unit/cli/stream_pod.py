"""A pod of the fake runtime whose container a streaming lab serves; and `crib` on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from crib.cli.session import CliSession
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve
from tests.unit.streaming.lab import BOUND, Lab

CRIB = (sys.executable, "-c", "from crib.cli.app import main; main()")


@contextlib.asynccontextmanager
async def serving(directory: Path, *, tty: bool = False) -> AsyncIterator[tuple[CliSession, World, Lab]]:
    """Pod `web` with the container `box`."""
    world, lab = World(), Lab(tty=tty)
    world.lab = await lab.start()
    pod = cri.PodSandbox(id=lab.pod.id)
    pod.metadata.name, pod.metadata.namespace, pod.metadata.uid = "web", "default", "u"
    world.pods[pod.id] = pod
    world.configs[pod.id] = cri.PodSandboxConfig()
    status = cri.ContainerStatus(id=lab.box.id, state=cri.CONTAINER_RUNNING)
    status.metadata.name = "box"
    world.containers[lab.box.id], world.owner[lab.box.id] = status, pod.id
    server = await serve(f"{directory}/s", world)
    yield CliSession(f"unix://{directory}/s", f"{directory}/pods"), world, lab
    await server.stop(None)
    await lab.stop()


class Terminal:
    """`crib` on a terminal of its own; the test is the person."""

    def __init__(self, session: CliSession, *words: str) -> None:
        self.fd, self._end = pty.openpty()
        self.resize(101, 33, tell=False)
        self._before = termios.tcgetattr(self._end)
        self.program = subprocess.Popen(
            [*CRIB, "-e", session.endpoint, *words],
            stdin=self._end,
            stdout=self._end,
            stderr=self._end,
            start_new_session=True,
        )
        self.shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def resize(self, width: int, height: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        if tell:
            self.program.send_signal(signal.SIGWINCH)

    async def until_shown(self, text: bytes) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(BOUND):
            while text not in self.shown:
                ready: asyncio.Future[None] = loop.create_future()
                loop.add_reader(self.fd, ready.set_result, None)
                try:
                    await ready
                finally:
                    loop.remove_reader(self.fd)
                self.shown += os.read(self.fd, 65536)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._end)[3] & (termios.ICANON | termios.ISIG)

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._end) == self._before

    async def ended(self) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.program.wait, BOUND), BOUND + 1)

    def close(self) -> None:
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()
        os.close(self.fd)
        os.close(self._end)


@contextlib.contextmanager
def terminal(session: CliSession, *words: str) -> Iterator[Terminal]:
    made = Terminal(session, *words)
    try:
        yield made
    finally:
        made.close()


async def crib(
    session: CliSession, *words: str, stdin: bytes | BinaryIO = b""
) -> subprocess.CompletedProcess[bytes]:
    """`crib` to its end, with pipes."""
    source: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    command = [*CRIB, "-e", session.endpoint, *words]
    return await asyncio.to_thread(
        lambda: subprocess.run(command, **source, capture_output=True, timeout=BOUND, check=False)
    )
