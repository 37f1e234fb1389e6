"""`crib forward`: sockets here, and what becomes of their connections."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crib.cli import forward, options
from crib.cli.forward import Spec, parse
from crib.cli.session import CliSession, CommandError
from crib.client.errors import NotFound
from crib.client.streams import listening
from crib.wire.portforward import Target
from tests.unit.cli.stream_pod import CRIB, serving
from tests.unit.client.fake_runtime import World
from tests.unit.streaming.lab import BOUND, Lab, until
from tests.unit.streaming.lab import Target as PodEnd

Served = tuple[CliSession, World, Lab]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


class Shown:
    """What the command has written."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""

    def update(self) -> Shown:
        out, err = self._capture.readouterr()
        self.out += out
        self.err += err
        return self

    def ports(self) -> list[int]:
        return [int(line.split()[2].rpartition(":")[2]) for line in self.update().out.splitlines()]


@contextlib.asynccontextmanager
async def forwarding(
    session: CliSession, capture: pytest.CaptureFixture[str], *specs: str
) -> AsyncIterator[Shown]:
    shown = Shown(capture)
    running = asyncio.ensure_future(forward.forward(session, options.ForwardOptions("web", list(specs))))
    await until(lambda: running.done() or len(shown.ports()) == len(specs))
    try:
        yield shown
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def exchanged(port: int, data: bytes) -> bytes:
    async with asyncio.timeout(BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_many_connections_to_many_ports_at_once(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _, lab = served
    async with forwarding(session, capsys, ":80", "0:81") as shown:
        first, second = shown.ports()
        assert (
            shown.out
            == f"Forwarding from 127.0.0.1:{first} -> 80\nForwarding from 127.0.0.1:{second} -> 81\n"
        )
        data = [b"%d" % number * 1000 for number in range(20)]
        found = await asyncio.gather(
            *(exchanged(first if number % 2 else second, text) for number, text in enumerate(data))
        )
        assert found == data
        assert sorted(target.address.port for target in lab.targets) == [80] * 10 + [81] * 10


async def test_one_that_is_refused_or_broken_is_told_and_ends_no_other(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _, lab = served
    lab.refused.add(81)
    async with forwarding(session, capsys, ":80", ":81") as shown:
        good, bad = shown.ports()
        reader, writer = await asyncio.open_connection("127.0.0.1", good)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        with contextlib.suppress(ConnectionError):
            assert await exchanged(bad, b"x") == b""
        await until(lambda: "connection refused" in shown.update().err)
        assert shown.err == "crib: 81: connecting to tcp:81: connection refused\n"
        _, reset = await asyncio.open_connection("127.0.0.1", good)
        reset.transport.abort()
        writer.write(b"b")
        assert await reader.read(1) == b"b"
        writer.close()


async def test_an_end_from_the_pod_comes_here(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    session, _, lab = served

    async def greet(target: PodEnd) -> None:
        await target.outbox.write(b"hello")

    lab.serve_target = greet
    async with forwarding(session, capsys, ":80") as shown:
        reader, writer = await asyncio.open_connection("127.0.0.1", shown.ports()[0])
        assert await asyncio.wait_for(reader.read(), BOUND) == b"hello"
        writer.close()
        await until(lab.targets[0].aborted.is_set)


async def test_who_goes_here_lets_the_pods_side_go(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _, lab = served
    async with forwarding(session, capsys, ":80") as shown:
        _, writer = await asyncio.open_connection("127.0.0.1", shown.ports()[0])
        writer.write(b"x")
        await until(lambda: lab.targets and lab.targets[0].inbox.written)
        writer.transport.abort()
        await until(lab.targets[0].aborted.is_set)


async def test_a_unix_socket_of_a_container_is_reached(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    session, _, lab = served
    async with forwarding(session, capsys, ":unix:box:/run/x.sock") as shown:
        assert shown.out.endswith(" -> unix:box:/run/x.sock\n")
        assert await exchanged(shown.ports()[0], b"hello") == b"hello"
    assert str(lab.targets[0].address) == "unix:box:/run/x.sock"


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.came.put_nowait(data)


async def test_datagrams_keep_their_bounds_and_senders_their_own_sockets(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "MAX_SENDERS", 2)
    session, _, lab = served
    loop = asyncio.get_running_loop()
    async with forwarding(session, capsys, "0:udp:53") as shown:
        port = shown.ports()[0]
        for number in range(3):
            transport, client = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", port))
            for data in (b"a", b"b", b"c" * 9000):
                transport.sendto(data)
            async with asyncio.timeout(BOUND):
                assert [await client.came.get() for _ in range(3)] == [b"a", b"b", b"c" * 9000]
            transport.close()
            assert len(lab.targets) == number + 1
        await until(lab.targets[0].aborted.is_set)
        assert not lab.targets[2].aborted.is_set()
    assert lab.targets[0].address.kind == "udp"


async def test_a_sender_that_is_silent_is_forgotten(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "SILENT_TIME", 0.01)
    session, _, lab = served
    async with forwarding(session, capsys, "0:udp:53") as shown:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", shown.ports()[0]))
            await until(lambda: lab.targets and lab.targets[0].aborted.is_set())


async def test_what_is_wrong_from_the_start_is_told(served: Served) -> None:
    session, world, _ = served
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CommandError, match=f"cannot listen on 127.0.0.1:{port}: .*address already in use"
        ):
            await forward.forward(session, options.ForwardOptions("web", [f"{port}:80"]))
    with pytest.raises(NotFound, match="there is no pod 'other'"):
        await forward.forward(session, options.ForwardOptions("other", ["80"]))
    world.lab = None
    done = await asyncio.to_thread(
        subprocess.run,
        [*CRIB, "-e", session.endpoint, "forward", "web", ":80"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"crib: no streams here\n")


async def test_ctrl_c_ends_it(served: Served) -> None:
    session, _, lab = served

    def wait_and_interrupt() -> int:
        words = [*CRIB, "-e", session.endpoint, "forward", "web", ":80"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            port = int(program.stdout.readline().split()[2].rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as connection:
                connection.sendall(b"x")
                assert connection.recv(1) == b"x"
                program.send_signal(signal.SIGINT)
                return program.wait(BOUND)

    assert await asyncio.to_thread(wait_and_interrupt) == 130
    await until(lab.targets[0].aborted.is_set)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("80", Spec(80, Target("tcp", 80))),
        ("8080:80", Spec(8080, Target("tcp", 80))),
        (":80", Spec(0, Target("tcp", 80))),
        ("0:80", Spec(0, Target("tcp", 80))),
        ("udp:53", Spec(53, Target("udp", 53))),
        ("5353:udp:53", Spec(5353, Target("udp", 53))),
        ("unix:db:/run/a:b", Spec(0, Target("unix", container="db", path="/run/a:b"))),
        ("9000:unix:db:/x", Spec(9000, Target("unix", container="db", path="/x"))),
    ],
)
def test_an_argument_names_both_ends(text: str, spec: Spec) -> None:
    assert parse(text) == spec


@pytest.mark.parametrize(
    "text",
    ["", "a", "0", "80:", "80:0", "65536", "65536:80", "1:2:3", "-1", "unix:/x", "unix:db:x", "udp:", "80 "],
)
def test_what_names_no_ends_is_wrong_usage(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
