"""Network namespaces for tests: pinned under a temporary directory, with sockets opened inside."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from crib.host import libc
from crib.host.namespaces import run_in_namespace
from crib.model.ids import SandboxId, new_sandbox_id
from crib.model.sandbox import PodMetadata, PortMapping
from crib.ports.networks import PodNetwork
from tests.fakes.stages import NoStages
from tests.patience import PATIENCE

no_stage = NoStages()

T = TypeVar("T")

WAIT_SECONDS = 20.0 * PATIENCE
"""That an answer may take, where there is one."""


def on_thread(work: Callable[[], T]) -> T:
    """What `work` gives on a thread that ends after it."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class PodNamespace:
    """A pinned network namespace, and the pod that lives in it."""

    def __init__(self, path: str) -> None:
        self.id: SandboxId = new_sandbox_id()
        self.path = path
        with open(path, "x", encoding="ascii"):
            pass
        on_thread(self._pin)

    def _pin(self) -> None:
        libc.unshare(libc.CLONE_NEWNET)
        libc.mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", self.path, None, libc.MS_BIND)

    def pod(self, *ports: PortMapping, annotations: tuple[tuple[str, str], ...] = ()) -> PodNetwork:
        """What a network is told of this pod."""
        metadata = PodMetadata(name="web", uid=self.id[:8], namespace="default")
        return PodNetwork(self.id, metadata, self.path, tuple(ports), annotations)

    def inside(self, work: Callable[[], T]) -> T:
        """What `work` gives inside the namespace."""

        return run_in_namespace(self.path, "net", work)

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A socket of the namespace: it stays there wherever it is used."""
        made = self.inside(lambda: socket.socket(socket.AF_INET, kind))
        made.setblocking(False)
        return made

    def unpin(self) -> None:
        """Let the namespace go; twice is fine."""
        with contextlib.suppress(OSError):
            libc.umount2(self.path, libc.MNT_DETACH)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class PodNamespaces:
    """Makes namespaces and lets all of them go at the end."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._made: list[PodNamespace] = []

    def make(self) -> PodNamespace:
        made = PodNamespace(os.path.join(self._directory, secrets.token_hex(4)))
        self._made.append(made)
        return made

    def unpin_all(self) -> None:
        for namespace in self._made:
            namespace.unpin()


@contextlib.asynccontextmanager
async def echo_server(listener: socket.socket, address: str, port: int) -> AsyncIterator[None]:
    """Answers each connection with the client's address as the server sees it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, sock=listener)
    async with server:
        yield


async def peer_seen(client: socket.socket, address: str, port: int, seconds: float = WAIT_SECONDS) -> str:
    """Connect and read what the echo server saw as our address.

    A new IPv6 address hears the question of a neighbor only when a worker of the kernel has had its turn, for
    which it queues with all network namespaces of the machine: who was told EHOSTUNREACH asks again.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        while True:
            with client:
                client.setblocking(False)
                try:
                    await loop.sock_connect(client, (address, port))
                except OSError as error:
                    if error.errno != errno.EHOSTUNREACH:
                        raise
                    again = _another(client)
                else:
                    return (await loop.sock_recv(client, 100)).decode()
            client = again
            await asyncio.sleep(0.05)  # nobody tells when the address can be reached


def _another(made: socket.socket) -> socket.socket:
    """A socket of the same kind in the same namespace (netdevice(7), SIOCGSKNS)."""
    namespace = fcntl.ioctl(made.fileno(), 0x894C)
    try:
        return run_in_namespace(namespace, "net", lambda: socket.socket(made.family, made.type, made.proto))
    finally:
        os.close(namespace)
