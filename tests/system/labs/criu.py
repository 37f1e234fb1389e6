"""A CRIU that tests can use, if there is one: `CRIB_TEST_CRIU` names it, else the one on PATH."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.patience import PATIENCE
from tests.system.labs.daemon import Cri

CRIU = os.environ.get("CRIB_TEST_CRIU") or shutil.which("criu") or ""


def why_not() -> str:
    """What is missing for checkpoints by runc; empty if nothing."""
    if shutil.which("runc") is None:
        return "runc is not installed"
    if not CRIU:
        return "there is no criu: set CRIB_TEST_CRIU, or install it"
    version = subprocess.run([CRIU, "--version"], capture_output=True, text=True, timeout=60, check=False)
    if not version.stdout.startswith("Version: ") or int(version.stdout.split()[1].split(".")[0]) < 4:
        return f"{CRIU} is no criu 4: {version.stdout.strip()[:200]}"
    checked = subprocess.run([CRIU, "check"], capture_output=True, text=True, timeout=60, check=False)
    return "" if checked.returncode == 0 else f"criu check: {checked.stderr.strip()[:200]}"


_WHY_NOT = why_not()
with_criu = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT or "it is there")


def settings_for(criu: Path | str) -> str:
    """Lines of a configuration's top for a daemon that makes checkpoints and restores them."""
    table = f'[checkpoints]\ncriu = "{criu}"\nrestore = true\n'
    return f'default_handler = "runc"\n[handlers.runc]\n{table}'


SETTINGS = settings_for(CRIU)


class Gate:
    """A criu that stops before it begins with a container as long as the gate is shut, and is the real one.

    Runtimes look for a file called criu, so it has a directory of its own.
    """

    def __init__(self, directory: Path) -> None:
        self._here, self._go = directory / "here", directory / "go"
        self.program = directory / "criu"
        self.program.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = swrk ] && [ -p {self._here} ]; then echo >{self._here}; cat {self._go}; fi\n'
            f'exec {CRIU} "$@"\n'
        )
        self.program.chmod(0o755)

    @contextlib.contextmanager
    def shut(self) -> Iterator[None]:
        """For the next one that comes; it is let through at the end at the latest."""
        for fifo in (self._here, self._go):
            os.mkfifo(fifo)
        self._both = [os.open(fifo, os.O_RDWR | os.O_NONBLOCK) for fifo in (self._here, self._go)]
        try:
            yield
        finally:
            self.open()

    async def reached(self) -> None:
        """Somebody waits before the gate: the container is paused."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._both[0], arrived.set)
        try:
            async with asyncio.timeout(BOUND):
                await arrived.wait()
        finally:
            loop.remove_reader(self._both[0])

    def open(self) -> None:
        """Safe to repeat."""
        for fifo in (self._here, self._go):
            fifo.unlink(missing_ok=True)
        while self._both:
            os.close(self._both.pop())  # the reader of the second has its end

    def settings(self) -> str:
        """See `settings_for`."""
        return settings_for(self.program)


BOUND = 60.0 * PATIENCE
COUNTER = (
    *("sh", "-c"),
    "rm /etc/group; echo kept >/note; i=0;"
    "while true; do i=$((i+1)); echo $i; echo $i >/next; mv /next /count; sleep 0.1; done",
)


async def checkpoint(cri: Cri, container: str, location: Path | str, timeout: int = 0) -> None:
    request = pb.CheckpointContainerRequest(container_id=container, location=str(location), timeout=timeout)
    await cri.call(cri.runtime.CheckpointContainer, request)


async def count(cri: Cri, container: str) -> int:
    return int((await cri.execute(container, "cat", "/count")).out or 0)


async def counts_on(cri: Cri, container: str, beyond: int) -> int:
    """The count once it is beyond another."""
    async with asyncio.timeout(BOUND):
        while (now := await count(cri, container)) <= beyond:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # a file that grows tells nobody
    return now


async def counter(cri: Cri, pod: Pod, **fields: object) -> str:
    container = await cri.run_container(pod, *COUNTER, **fields)
    async with asyncio.timeout(BOUND):
        while not (await cri.execute(container, "cat", "/count")).out:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # as above
    return container
