"""Connections that have sent no token of ours: they take no place from clients, and are few."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crib.streaming import server
from crib.wire.remotecommand import Exited
from tests.unit.streaming.clients import SpdyClient, Wire, blind, head, split_answer
from tests.unit.streaming.lab import Command, Lab, MakeLab, forever, until

V4 = "v4.channel.k8s.io"


async def test_connections_of_clients_beyond_the_limit_are_refused(make_lab: MakeLab) -> None:
    lab = await make_lab(max_connections=2)
    lab.script = forever
    clients = [await SpdyClient.connect(lab.exec_url(), V4) for _ in range(2)]
    url = lab.exec_url()
    wire = await Wire.to(url)
    await wire.send(head(url))
    status, _, text = split_answer(await wire.read_to_end())
    assert (status, text) == (503, b"2 connections are open: try again later\n")
    ends: list[Any] = [wire, *clients]
    for each in ends:
        each.close()
    await until(lambda: not lab.server._clients)
    client = await SpdyClient.connect(url, V4)  # the URL was not used up
    client.close()


@pytest.mark.parametrize("tls", ["off", "self-signed"])
async def test_of_too_many_strangers_the_oldest_is_closed_and_clients_are_served(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    monkeypatch.setattr(server, "STRANGERS", 3)
    lab = await make_lab(tls=tls, max_connections=1)
    strangers = [await Wire.to(lab.exec_url()) for _ in range(3)]
    await until(lambda: len(lab.server._clients) == 3)
    strangers += [await Wire.to(lab.exec_url()) for _ in range(4)]
    for closed in strangers[:4]:
        assert await closed.read_to_end() == b""
    await until(lambda: len(lab.server._clients) == 3)
    assert len(lab.server._strangers) == 3
    await serves(lab)
    assert await strangers[4].read_to_end() == b"", "a newcomer takes the place of the oldest"
    for wire in strangers:
        wire.close()
    await until(lambda: not lab.server._clients)
    assert not lab.server._strangers
    assert not lab.server._served


async def test_a_client_that_is_served_is_no_stranger(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STRANGERS", 1)
    may_end = asyncio.Event()

    async def waits(command: Command) -> int:
        await may_end.wait()
        return 0

    lab.script = waits
    client = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await client.terminal("stdout")
    for _ in range(3):
        wire = await Wire.to(lab.exec_url())
        await wire.send(b"GET /exec/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert split_answer(await wire.read_to_end())[0] == 404
        wire.close()
    may_end.set()
    assert await client.outcome(streams) == Exited(0)
    client.close()


async def serves(lab: Lab) -> None:
    """A client with a URL gets what it came for."""
    context = blind() if lab.settings.streaming.tls != "off" else None
    client = await SpdyClient.connect(lab.exec_url(), V4, context=context)
    assert await client.outcome(await client.terminal("stdout")) == Exited(0)
    client.close()
