"""Clients that mean harm, at the real daemon: what others see of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.spdy import frames
from tests.system.labs.daemon import Cri, Cribd, running_cribd
from tests.system.labs.stream_lab import box_in, nothing_kept
from tests.unit.streaming.clients import SpdyClient, WsClient

pytestmark = [pytest.mark.root, pytest.mark.system]

FLOOD_SECONDS = 3.0
WORST = 1.5
"""Seconds that a call may take meanwhile: some 0.05 on a quiet machine; without turns it would be many."""
EMPTY_MESSAGE = b"\x82\x80" + bytes(4)
EMPTY_PING = b"\x89\x80" + bytes(4)
WRITER = "import sys\npiece = bytes.fromhex(sys.argv[1]) * 8192\nwhile True: sys.stdout.buffer.write(piece)"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


@contextlib.contextmanager
def flooding(client: SpdyClient | WsClient, frame: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that writes the frame to the client's connection without end."""
    with socket.socket(fileno=os.dup(client.wire.writer.get_extra_info("socket").fileno())) as connection:
        connection.setblocking(True)
        command = [sys.executable, "-c", WRITER, frame.hex()]
        with subprocess.Popen(command, stdout=connection.fileno(), stderr=subprocess.DEVNULL) as writer:
            try:
                yield writer
            finally:
                writer.kill()


async def worst_call(cri: Cri) -> float:
    """Seconds of the longest of the calls of FLOOD_SECONDS."""
    worst, end = 0.0, time.monotonic() + FLOOD_SECONDS
    while (began := time.monotonic()) < end:
        await cri.call(cri.runtime.Version, pb.VersionRequest())
        worst = max(worst, time.monotonic() - began)
    return worst


@pytest.mark.parametrize("frame", [EMPTY_MESSAGE, EMPTY_PING], ids=["messages", "pings"])
async def test_tiny_frames_of_a_websocket_delay_no_call(cri: Cri, frame: bytes) -> None:
    _, box = await box_in(cri, "box")
    request = pb.ExecRequest(container_id=box, cmd=["sleep", "600"], stdin=True, stdout=True)
    url = (await cri.call(cri.runtime.Exec, request)).url
    client = await WsClient.connect(url, ["v5.channel.k8s.io"])
    with flooding(client, frame) as writer:
        assert await worst_call(cri) < WORST
        assert writer.poll() is None, "it floods still"
    client.close()
    await cri.sh(box, "kill $(busybox pidof sleep 600) || true")


async def test_tiny_frames_of_spdy_delay_no_call(cri: Cri) -> None:
    _, box = await box_in(cri, "box")
    request = pb.ExecRequest(container_id=box, cmd=["sleep", "600"], stdin=True, stdout=True)
    client = await SpdyClient.connect((await cri.call(cri.runtime.Exec, request)).url, "v4.channel.k8s.io")
    streams = await client.terminal("stdin", "stdout")
    with flooding(client, frames.data_header(streams["stdin"], 0, False)) as writer:
        assert await worst_call(cri) < WORST
        assert writer.poll() is None, "it floods still"
    client.close()
    await cri.sh(box, "kill $(busybox pidof sleep 600) || true")


async def test_a_command_that_one_execs_synchronously_is_heard_a_moment_longer(cri: Cri) -> None:
    """Of what comes 20 ms after its end; on a machine that is busy not each time."""
    _, box = await box_in(cri, "box")
    script = "{ sleep 0.02; echo late; } & exit 0"
    for _try in range(10):
        if (await cri.execute(box, "sh", "-c", script)).out == "late\n":
            return
    pytest.fail("in none of ten")
