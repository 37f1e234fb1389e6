"""Connections that a program in the pod resets, as it may at any time: they end, and no others with them.

kubectl ends a whole session, with all of its connections, when it reads a word on any error stream.
"""

from __future__ import annotations

from typing import Any

import pytest

from crib.streaming import portforward
from crib.wire import portforward as wire
from tests.unit.streaming.clients import WsClient
from tests.unit.streaming.forwards import spdy, tunnel
from tests.unit.streaming.lab import Lab, Target, until


async def resets(target: Target) -> None:
    """An answer, then a reset at the second word."""
    await target.inbox.read()
    await target.outbox.write(b"half")
    await target.inbox.read()
    await target.outbox.break_off(ConnectionResetError(104, "Connection reset by peer"))


@pytest.mark.parametrize("connect", [spdy, tunnel])
async def test_a_reset_by_the_pod_resets_the_stream_without_a_word(lab: Lab, connect: Any) -> None:
    lab.serve_target = resets
    client = await connect(lab)
    data, error = await client.pair(80, "1")
    other, _ = await client.pair(81, "2")
    await client.send(data, b"x")
    await client.until(lambda: client.got[data] == b"half")
    await client.send(data, b"x")
    await client.until(lambda: error in client.ended and data in client.reset)
    assert client.got[error] == b""
    assert data not in client.ended
    await until(lab.targets[0].aborted.is_set)
    await client.send(other, b"still here")
    await client.until(lambda: client.got[other] == b"half")
    client.close()


async def test_channels_cannot_be_reset_so_there_are_words(lab: Lab) -> None:
    lab.serve_target = resets
    client = await WsClient.connect(lab.forward_url(80), ["v4.channel.k8s.io"])
    await client.message(b"\0x")
    await client.until(lambda: client.channel(0).endswith(b"half"))
    await client.message(b"\0x")
    await client.to_end()
    assert client.channel(1) == wire.encode_port(80) + b"the connection broke: Connection reset by peer"
    client.close()


@pytest.mark.parametrize("connect", [spdy, tunnel])
async def test_a_client_s_reset_is_seen_while_the_pod_takes_nothing(lab: Lab, connect: Any) -> None:
    async def takes_nothing(target: Target) -> None:
        await target.aborted.wait()

    lab.serve_target = takes_nothing
    client = await connect(lab)
    data, _ = await client.pair(80, "1")
    await client.send(data, bytes(200_000))
    await until(lambda: lab.targets and lab.targets[0].inbox.written)
    await client.send(data, bytes(1000))
    client.spdy.reset(data)
    await client.flush()
    await until(lab.targets[0].aborted.is_set)
    client.close()


async def test_a_pod_that_takes_nothing_is_not_kept_when_a_websocket_s_client_has_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def takes_nothing(target: Target) -> None:
        await target.aborted.wait()

    monkeypatch.setattr(portforward, "LAST_BYTES_TIME", 0.05)
    lab.serve_target = takes_nothing
    client = await WsClient.connect(lab.forward_url(80), ["v4.channel.k8s.io"])
    for _ in range(3):
        await client.message(b"\0" + bytes(100_000))
        await until(lambda: lab.targets and lab.targets[0].inbox.written)
    client.close()
    await until(lab.targets[0].aborted.is_set)
    await until(lambda: not lab.server._clients)
