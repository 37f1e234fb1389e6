"""What the stories of streams share: commands to their end, `crib` as a process, servers in a pod, counts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crib.client import streams
from crib.client.errors import Unavailable
from crib.client.pods import Pod
from crib.client.streams import Reader, Session, StreamOptions
from crib.host.namespaces import run_in_namespace
from tests.patience import PATIENCE
from tests.system.labs.daemon import Cri, Cribd, until

Transport = Literal["websocket", "spdy"]
TRANSPORTS: tuple[Transport, ...] = ("websocket", "spdy")
BOUND = 60.0 * PATIENCE
"""Seconds that anything awaited may take: it hangs then. A busy machine is many times slower than others."""
SOURCE = Path(__file__).resolve().parents[3] / "src"
CRIB = (sys.executable, "-c", "from crib.cli.app import main; main()")

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """What a command wrote, and its exit code."""

    code: int
    out: bytes
    err: bytes = b""


async def rest(source: Reader | None) -> bytes:
    """All that still comes."""
    return b"".join([data async for data in source]) if source is not None else b""


async def seen(source: Reader | None, text: bytes) -> bytes:
    """What comes, until that text has."""
    assert source is not None
    found = bytearray()
    async with asyncio.timeout(BOUND):
        looked = 0
        while found.find(text, looked) < 0:
            looked = max(0, len(found) - len(text))
            data = await source.read()
            assert data, f"it ended with {bytes(found[-100:])!r}"
            found += data
    return bytes(found)


async def finish(session: Session, stdin: bytes | None = None) -> Outcome:
    """To the end; with `stdin` also that is written, and its end."""

    async def feed() -> None:
        with contextlib.suppress(Unavailable):  # it has ended before
            if session.stdin is not None and stdin is not None:
                await session.stdin.write(stdin)
                await session.stdin.close()

    async with asyncio.timeout(BOUND):
        out, err, code, _ = await asyncio.gather(
            rest(session.stdout), rest(session.stderr), session.wait(), feed()
        )
    return Outcome(code, out, err)


async def run(
    cri: Cri,
    box: str,
    *argv: str,
    stdin: bytes | None = None,
    tty: bool = False,
    transport: Transport = "websocket",
) -> Outcome:
    """A command to its end."""
    options = StreamOptions(tty, stdin is not None, transport=transport)
    async with streams.exec(cri.connection, box, argv, options) as session:
        return await finish(session, stdin)


class Client:
    """`crib` as a process of its own: what happens to it happens to a real client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout

    async def seen(self, text: bytes) -> bytes:
        """What it writes, until that text has come."""
        return await asyncio.wait_for(self.stdout.readuntil(text), BOUND)

    async def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        async with asyncio.timeout(BOUND):
            # Unread output holds up the pipe, and asyncio tells of no end before (CPython issue 119710).
            await asyncio.gather(self.stdout.read(), self._process.wait())

    async def end(self, number: signal.Signals | None = None) -> tuple[int, bytes]:
        """Wait until it has ended (by this signal, if it is given): its exit code, and what was unread."""
        if number is not None:
            self._process.send_signal(number)
        async with asyncio.timeout(BOUND):
            unread, code = await asyncio.gather(self.stdout.read(), self._process.wait())
        return code, unread


@contextlib.asynccontextmanager
async def crib(cribd: Cribd, *words: str) -> AsyncIterator[Client]:
    """`crib WORDS`, its stderr in its stdout; it is killed at the end of the block if it still runs."""
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  its pipes are what a story waits for
        *CRIB,
        "--endpoint",
        f"unix://{cribd.socket}",
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    client = Client(process)
    try:
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.contextmanager
def pod_socket(cribd: Cribd, pod: Pod, kind: socket.SocketKind, port: int) -> Iterator[socket.socket]:
    """A socket of this process that is bound to a port of the pod's loopback."""

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind(("127.0.0.1", port))
        return made

    made: socket.socket = run_in_namespace(network_of(cribd, pod), "net", bound)
    with made:
        yield made


def network_of(cribd: Cribd, pod: Pod) -> str:
    """The file that the pod's network namespace is pinned by."""
    (path,) = (path for path in cribd.leftovers().namespaces if pod.id in path and path.endswith("/net"))
    return path


@contextlib.asynccontextmanager
async def pod_server(cribd: Cribd, pod: Pod, port: int, answer: Answer) -> AsyncIterator[None]:
    """A TCP server in the pod, served by this process."""
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        task.add_done_callback(clients.discard)
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the story's client has gone, or the story is over
        finally:
            writer.transport.abort()

    with pod_socket(cribd, pod, socket.SOCK_STREAM, port) as listener:
        server = await asyncio.start_server(serve, sock=listener, backlog=256)
        async with server:
            try:
                yield
            finally:
                for task in clients:
                    task.cancel()
                await asyncio.gather(*clients)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What came, until its end; then the end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def memory(pid: int, key: str = "VmRSS") -> int:
    """Bytes: resident now, or (VmHWM) at most until now."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"{key}:\s+(\d+) kB", text)
    assert match
    return int(match[1]) * 1024


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[Callable[[], int]]:
    """How many bytes it took at most beyond what it had at the beginning of the block."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted anew: proc(5)
    before = memory(pid)
    yield lambda: memory(pid, "VmHWM") - before


def descriptors(pid: int) -> list[str]:
    """What it has open, without numbers: sockets and pipes by kind."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(re.sub(r"\[\d+\]", "", os.readlink(f"/proc/{pid}/fd/{number}")))
    return sorted(found)


@contextlib.asynccontextmanager
async def nothing_kept(cribd: Cribd) -> AsyncIterator[None]:
    """Soon after the block the daemon has no more descriptors open than before."""
    before = descriptors(cribd.pid)
    yield
    gc.collect()  # our own ends
    try:
        await until(lambda: len(descriptors(cribd.pid)) <= len(before), BOUND)
    except AssertionError:
        raise AssertionError(f"open before: {before}; now: {descriptors(cribd.pid)}") from None


async def box_in(cri: Cri, name: str, *command: str, **fields: object) -> tuple[Pod, str]:
    """A pod of that name with one container, which runs; without a command it only is there."""
    pod = await cri.run_pod(name)
    return pod, await cri.run_container(pod, *(command or ("sleep", "100000")), **fields)


async def exists(cri: Cri, box: str, path: str) -> None:
    """Returns when there is such a file in the container."""
    await until(lambda: cri.sh(box, f"ls {path} 2>/dev/null || true"), BOUND)
