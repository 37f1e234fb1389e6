"""Connections to a pod's own kernel: by the runtime where it can, else at the pod's address."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.dial_inside import InsideDialler
from crib.backends.oci.environment import OciEnvironment
from crib.ends import ByteStream
from crib.model.errors import InvalidRequest, Unavailable
from crib.model.sandbox import NetworkAttachment, SandboxRecord
from crib.model.streams import PodAddress
from tests.unit.ocispec.inputs_for_tests import sandbox

FORWARDS = """#!/usr/bin/env python3
import socket, sys
root, verb, flag, path, pod, port = sys.argv[1:]
assert (verb, flag, len(pod)) == ("port-forward", "--stream", 64), sys.argv
if port == "82":
    sys.exit(0)
if port != "80":
    sys.exit(f"nobody listens on {port}")
peer = socket.socket(socket.AF_UNIX)
peer.connect(path)
peer.sendall(b"from " + port.encode())
"""
BOUND = 60.0


def dialler(tmp_path: Path, *, forwards: bool) -> InsideDialler:
    program = tmp_path / "runsc"
    program.write_text(FORWARDS)
    program.chmod(0o755)
    environment = SimpleNamespace(
        facts=SimpleNamespace(name="gvisor", program=str(program), version="1", forwards_ports=forwards),
        paths=SimpleNamespace(monitor_sockets=str(tmp_path)),
        runtime=RuntimeProgram(str(program), "/r", stand_in="/s.sh"),
    )
    return InsideDialler(cast("OciEnvironment", environment))


async def all_that_comes(stream: ByteStream) -> bytes:
    received = b""
    async with asyncio.timeout(BOUND):
        while data := await stream.read():
            received += data
    await stream.close()
    return received


def at(*addresses: str) -> SandboxRecord:
    record = sandbox()
    network = NetworkAttachment(interface="eth0", addresses=addresses)
    return SandboxRecord(
        record.id, record.config, record.handler, record.state, record.created_at, "", network=network
    )


async def test_a_runtime_that_connects_to_the_pods_loopback_does_so_and_leaves_no_socket(
    tmp_path: Path,
) -> None:
    inside = dialler(tmp_path, forwards=True)
    assert await all_that_comes(await inside.dial(sandbox(), PodAddress("tcp", 80))) == b"from 80"
    with pytest.raises(Unavailable, match="nobody listens on 81"):
        await inside.dial(sandbox(), PodAddress("tcp", 81))
    with pytest.raises(Unavailable, match="said that it had connected, and has not"):
        await inside.dial(sandbox(), PodAddress("tcp", 82))
    assert [path.name for path in tmp_path.iterdir()] == ["runsc"]


async def test_another_ones_pods_are_reached_at_their_addresses(tmp_path: Path) -> None:
    inside = dialler(tmp_path, forwards=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stream = await inside.dial(at("127.0.0.1"), PodAddress("tcp", port))
        peer, _ = server.accept()
        peer.sendall(b"hello")
        peer.close()
        assert await all_that_comes(stream) == b"hello"
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1: Connection refused \(runsc 1 cannot connect"):
        await inside.dial(at("127.0.0.1"), PodAddress("tcp", port))
    with pytest.raises(Unavailable, match="no address"):
        await inside.dial(at(), PodAddress("tcp", port))


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_nothing_but_tcp_gets_there(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(InvalidRequest, match="reached by TCP only"):
        await dialler(tmp_path, forwards=True).dial(sandbox(), PodAddress(kind, 80))
