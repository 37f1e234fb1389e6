"""Connections into pods at the handler's port: TCP, UDP and unix sockets, and what is refused."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest

from crib.backends.network.interfaces import bring_loopback_up
from crib.backends.streams import dial
from crib.ends import ByteStream
from crib.host.namespaces import run_in_namespace
from crib.model.errors import InvalidRequest, NotFound, Unavailable
from crib.model.sandbox import NamespaceMode, SandboxRecord
from crib.model.streams import PodAddress
from crib.ports.networks import PodNetwork
from crib.wire.portforward import DatagramReader, encode_datagram
from tests.system.labs.oci_pods import pod
from tests.system.labs.oci_setup import BOUND, OciLab, oci_lab
from tests.system.labs.oci_streams import Box, box, descriptors, rest, until

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
async def lab() -> AsyncIterator[OciLab]:
    async with oci_lab() as made:
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@asynccontextmanager
async def connected_pod(lab: OciLab) -> AsyncIterator[SandboxRecord]:
    """A pod whose loopback is up, as its network makes it."""
    async with pod(lab) as sandbox:
        await bring_loopback_up(
            PodNetwork(sandbox.id, sandbox.config.metadata, lab.handler.pods.netns_path(sandbox))
        )
        yield sandbox


def listening(
    lab: OciLab, sandbox: SandboxRecord, family: int, address: str, kind: int = socket.SOCK_STREAM
) -> socket.socket:
    """A socket in the pod that is bound to a port of its own."""

    def make() -> socket.socket:
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            made.listen(5)
        return made

    return run_in_namespace(lab.handler.pods.netns_path(sandbox), "net", make)


async def accepted(server: socket.socket) -> socket.socket:
    async with asyncio.timeout(BOUND):
        connection, _peer = await asyncio.get_running_loop().sock_accept(server)
    return connection


async def dialled(
    lab: OciLab, sandbox: SandboxRecord, server: socket.socket, kind: str = "tcp"
) -> ByteStream:
    port = server.getsockname()[1]
    return await lab.handler.streams.dial(sandbox, [], PodAddress(kind, port))  # type: ignore[arg-type]  # a literal


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_both_loopbacks_are_reached_and_each_half_ends_by_itself(
    lab: OciLab, stack: ExitStack, family: int, address: str
) -> None:
    async with connected_pod(lab) as sandbox:
        before = descriptors()
        server = stack.enter_context(listening(lab, sandbox, family, address))
        stream = await dialled(lab, sandbox, server)
        peer = stack.enter_context(await accepted(server))
        loop = asyncio.get_running_loop()
        sent = b"x" * 1_000_000 if family == socket.AF_INET6 else b"hello"

        async def send() -> None:
            await stream.write(sent)
            await stream.close()
            await stream.close()

        async def receive() -> bytes:
            received = b""
            while data := await loop.sock_recv(peer, 1 << 20):
                received += data
            return received

        async with asyncio.timeout(BOUND):
            # at once: what the kernel holds for a peer that does not read is its own matter
            _, received = await asyncio.gather(send(), receive())
        assert received == sent
        await loop.sock_sendall(peer, b"answer")
        peer.close()
        assert await rest(stream) == b"answer"
        stream.abort()
        server.close()
        assert descriptors() == before


async def test_a_port_where_nobody_listens_is_told_with_all_that_was_tried(lab: OciLab) -> None:
    async with connected_pod(lab) as sandbox:
        with pytest.raises(Unavailable, match=r"tcp:81 .*127\.0\.0\.1: .*refused; ::1: .*refused"):
            await lab.handler.streams.dial(sandbox, [], PodAddress("tcp", 81))
        for port in (0, -1, 65536):
            with pytest.raises(InvalidRequest, match="port"):
                await lab.handler.streams.dial(sandbox, [], PodAddress("tcp", port))
    with pytest.raises(Unavailable):
        await lab.handler.streams.dial(sandbox, [], PodAddress("tcp", 81))


async def test_a_connection_that_is_broken_off_touches_no_other(lab: OciLab, stack: ExitStack) -> None:
    async with connected_pod(lab) as sandbox:
        server = stack.enter_context(listening(lab, sandbox, socket.AF_INET, "127.0.0.1"))
        one, two = await dialled(lab, sandbox, server), await dialled(lab, sandbox, server)
        first, second = [stack.enter_context(await accepted(server)) for _ in range(2)]
        waiting = asyncio.ensure_future(two.read())
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()
        with pytest.raises(ConnectionResetError):
            await one.read()
        one.abort()
        await asyncio.get_running_loop().sock_sendall(second, b"fine")
        assert await waiting == b"fine"
        reading = asyncio.ensure_future(two.read())
        await asyncio.sleep(0)
        two.abort()
        two.abort()
        assert await reading == b""
        with pytest.raises(ConnectionError):
            await two.write(b"late")


async def test_a_pod_on_the_host_s_network_is_reached_there(lab: OciLab, stack: ExitStack) -> None:
    async with pod(lab, network=NamespaceMode.NODE) as sandbox:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.setblocking(False)
        stream = await dialled(lab, sandbox, server)
        peer = stack.enter_context(await accepted(server))
        await stream.write(b"hello")
        assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"hello"
        stream.abort()


async def test_what_never_answers_is_given_up(
    lab: OciLab, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with box(lab) as made:
        full = stack.enter_context(socket.socket(socket.AF_UNIX))
        full.bind(f"/proc/{first_pid(made)}/root/full")
        full.listen(0)
        address = PodAddress("unix", container="main", path="/full")
        first = await made.handler.streams.dial(made.sandbox, [made.record], address)
        monkeypatch.setattr(dial, "CONNECT_TIME", 0.3)
        with pytest.raises(Unavailable, match="no answer within"):
            await made.handler.streams.dial(made.sandbox, [made.record], address)
        first.abort()


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_datagrams_keep_their_bounds(lab: OciLab, stack: ExitStack, family: int, address: str) -> None:
    async with connected_pod(lab) as sandbox:
        before = descriptors()
        server = stack.enter_context(listening(lab, sandbox, family, address, socket.SOCK_DGRAM))
        server.setblocking(True)
        server.settimeout(BOUND)
        stream = await dialled(lab, sandbox, server, "udp")
        frames = b"".join(encode_datagram(payload) for payload in (b"one", b"", b"three" * 100))
        reader = DatagramReader()
        reading = asyncio.ensure_future(stream.read())
        await stream.write(frames[:4])
        await stream.write(frames[4:])
        for expected in (b"one", b"", b"three" * 100):
            payload, peer = await asyncio.to_thread(server.recvfrom, 65536)
            assert payload == expected
            server.sendto(payload[::-1], peer)
        async with asyncio.timeout(BOUND):
            answers = list(reader.receive(await reading))
            while len(answers) < 3:
                answers += reader.receive(await stream.read())
        assert answers == [b"eno", b"", b"eerht" * 100]
        await stream.close()
        stream.abort()
        assert await stream.read() == b""
        server.close()
        assert descriptors() == before


async def test_datagrams_to_nobody_are_told(lab: OciLab) -> None:
    async with connected_pod(lab) as sandbox:
        stream = await lab.handler.streams.dial(sandbox, [], PodAddress("udp", 53))
        with pytest.raises(ConnectionError):
            await talk(stream)
        stream.abort()
        stream = await lab.handler.streams.dial(sandbox, [], PodAddress("udp", 53))
        with pytest.raises(ConnectionError, match="longer"):
            await stream.write(b"\xff\xff")
        stream.abort()


async def talk(stream: ByteStream) -> None:
    async with asyncio.timeout(BOUND):
        for _try in range(3):
            await stream.write(encode_datagram(b"x"))
        await stream.read()


async def test_sockets_of_a_container_are_reached_by_its_own_names(lab: OciLab, stack: ExitStack) -> None:
    async with box(lab) as made:
        root = f"/proc/{first_pid(made)}/root"
        server = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        server.bind(f"{root}/tmp/app.sock")
        server.listen(5)
        await made.run("sh", "-c", "busybox ln -s /tmp/app.sock /tmp/link; busybox ln -s ../../../tmp /etc/t")
        for path in ("/tmp/app.sock", "/tmp/link", "/etc/t/app.sock", "/../../tmp/app.sock"):
            address = PodAddress("unix", container="main", path=path)
            stream = await made.handler.streams.dial(made.sandbox, [made.record], address)
            peer = await accepted(server)
            await asyncio.get_running_loop().sock_sendall(peer, b"hello\n")
            assert await until(stream, b"\n") == b"hello\n"
            peer.close()
            stream.abort()


async def test_no_path_leads_to_a_socket_of_the_host(lab: OciLab, stack: ExitStack) -> None:
    async with box(lab) as made:
        place = f"{lab.paths.state}/host.sock"
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(place)
        server.listen(5)
        pid = os.getpid()
        script = f"busybox ln -s {place} /tmp/out; busybox ln -s /proc/{pid}/root{place} /tmp/magic; "
        await made.run("sh", "-c", script + "busybox ln -s /proc/1/root /tmp/self; touch /tmp/file")
        paths = ("/tmp/out", "/tmp/magic", f"/tmp/self{place}", "/tmp/file", "/tmp", "/nosuch", place)
        for path in paths:
            address = PodAddress("unix", container="main", path=path)
            with pytest.raises(Unavailable, match="unix:main:"):
                await made.handler.streams.dial(made.sandbox, [made.record], address)
        for path in ("tmp/out", "", "/a\0b"):
            address = PodAddress("unix", container="main", path=path)
            with pytest.raises(InvalidRequest, match="path"):
                await made.handler.streams.dial(made.sandbox, [made.record], address)
        other = PodAddress("unix", container="other", path="/x")
        with pytest.raises(NotFound, match="other"):
            await made.handler.streams.dial(made.sandbox, [made.record], other)
        with suppress(BlockingIOError):
            server.setblocking(False)
            server.accept()
            pytest.fail("the host's socket was reached")


def first_pid(made: Box) -> int:
    assert made.record.process is not None
    return made.record.process.pid
