"""Clients of a pod's ports, in the two ways that kubectl has."""

from __future__ import annotations

from crib.model.streams import PodAddress
from crib.wire import portforward as wire
from tests.unit.streaming.clients import SpdyClient, TunnelWire, WsClient
from tests.unit.streaming.lab import Lab

PROTOCOL = "portforward.k8s.io"


async def spdy(lab: Lab, *ports: int, beyond: tuple[PodAddress, ...] = ()) -> SpdyClient:
    return await SpdyClient.connect(lab.forward_url(*ports, beyond=beyond), PROTOCOL)


async def tunnel(lab: Lab, *ports: int) -> SpdyClient:
    socket = await WsClient.connect(lab.forward_url(*ports), [wire.TUNNEL_PROTOCOL])
    assert socket.subprotocol == wire.TUNNEL_PROTOCOL
    return SpdyClient(TunnelWire(socket), {})
