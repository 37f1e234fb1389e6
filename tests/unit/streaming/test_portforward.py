"""Connections into a pod, over SPDY, a tunnel and WebSocket channels."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import pytest

from crib.model.streams import PodAddress
from crib.streaming.link import UNREAD_BYTES
from crib.wire import portforward as wire
from tests.unit.streaming.clients import Refused, WsClient
from tests.unit.streaming.forwards import spdy, tunnel
from tests.unit.streaming.lab import Lab, MakeLab, Target, until


@pytest.mark.parametrize("connect", [spdy, tunnel])
async def test_bytes_go_both_ways_and_ends_too(lab: Lab, connect: Any) -> None:
    client = await connect(lab, 80)
    data, error = await client.pair(80, "0")
    sent = os.urandom(300_000)
    for at in range(0, len(sent), 30_000):
        await client.send(data, sent[at : at + 30_000])
    await client.send(data, fin=True)
    await client.until(lambda: {data, error} <= client.ended)
    assert client.got[data] == sent
    assert client.got[error] == b""
    assert lab.targets[0].address == PodAddress("tcp", 80)
    await until(lab.targets[0].aborted.is_set)
    client.close()


async def test_the_pod_s_end_reaches_a_client_that_still_sends(lab: Lab) -> None:
    """The error stream ends with it: kubectl waits for that before it closes its own side."""

    async def say_and_end(target: Target) -> None:
        await target.outbox.write(b"bye")

    lab.serve_target = say_and_end
    client = await spdy(lab)
    data, error = await client.pair(80, "0")
    await client.until(lambda: {data, error} <= client.ended)
    assert client.got[data] == b"bye"
    await client.send(data, b"more")
    assert not lab.targets[0].aborted.is_set()
    await client.send(data, fin=True)
    await until(lab.targets[0].aborted.is_set)
    client.close()


async def test_the_client_s_end_reaches_the_pod_whose_answer_still_comes(lab: Lab) -> None:
    async def answer_at_the_end(target: Target) -> None:
        await target.outbox.write(b"got %d" % len(await target.inbox.read_all()))

    lab.serve_target = answer_at_the_end
    client = await spdy(lab)
    data, _ = await client.pair(80, "0")
    await client.send(data, b"x" * 1000)
    await client.send(data, fin=True)
    await client.until(lambda: data in client.ended)
    assert client.got[data] == b"got 1000"
    client.close()


async def test_a_refused_port_is_told_on_its_own_error_stream(lab: Lab) -> None:
    lab.refused.add(81)
    client = await spdy(lab)
    bad, bad_error = await client.pair(81, "1")
    good, _ = await client.pair(80, "2")
    await client.until(lambda: bad_error in client.ended and bad in client.reset)
    assert b"connection refused" in client.got[bad_error]
    await client.send(good, b"still here")
    await client.until(lambda: client.got[good] == b"still here")
    client.close()


async def test_ports_that_were_not_asked_for_are_refused(lab: Lab) -> None:
    client = await spdy(lab, 80, 443)
    for target in ("8080", "udp:80", "unix:box:/run/x"):
        _, error = await client.pair(target, target)
        await client.until(lambda error=error: error in client.ended)  # type: ignore[misc]
        assert b"was not asked for" in client.got[error]
    assert not lab.targets
    await client.pair(443, "good")
    await until(lambda: lab.targets)
    client.close()


async def test_without_ports_any_tcp_port_is_allowed_and_nothing_else(lab: Lab) -> None:
    client = await spdy(lab)
    await client.pair(12345, "1")
    await until(lambda: lab.targets)
    _, error = await client.pair("udp:53", "2")
    await client.until(lambda: error in client.ended)
    assert client.got[error]
    client.close()


async def test_our_own_tickets_allow_exactly_their_targets(lab: Lab) -> None:
    socket = PodAddress("unix", container="box", path="/run/x")
    beyond = (PodAddress("udp", 53), socket, PodAddress("tcp", 80))
    client = await spdy(lab, beyond=beyond)
    for number, target in enumerate(("udp:53", "unix:box:/run/x", "80")):
        await client.pair(target, f"good {number}")
    await until(lambda: len(lab.targets) == 3)
    assert {target.address for target in lab.targets} == set(beyond)
    for target in ("81", "udp:80", "unix:box:/run/y", "unix:other:/run/x"):
        _, error = await client.pair(target, target)
        await client.until(lambda error=error: error in client.ended)  # type: ignore[misc]
        assert b"was not asked for" in client.got[error]
    client.close()


async def test_datagrams_have_no_end_so_the_client_s_is_all_there_is(lab: Lab) -> None:
    client = await spdy(lab, beyond=(PodAddress("udp", 53),))
    data, error = await client.pair("udp:53", "1")
    await client.send(data, b"\0\1x", fin=True)
    await client.until(lambda: {data, error} <= client.ended)
    assert lab.targets[0].aborted.is_set()
    client.close()


async def test_a_connection_that_breaks_in_the_pod_is_reset_with_words(lab: Lab) -> None:
    async def breaks(target: Target) -> None:
        await target.inbox.read()
        await target.outbox.break_off(TimeoutError(110, "Connection timed out"))

    lab.serve_target = breaks
    client = await spdy(lab)
    data, error = await client.pair(80, "1")
    await client.send(data, b"x")
    await client.until(lambda: error in client.ended and data in client.reset)
    assert client.got[error] == b"the connection broke: Connection timed out"
    client.close()


async def test_a_pod_that_takes_no_more_still_tells_what_it_has_to(lab: Lab) -> None:
    async def deaf(target: Target) -> None:
        await target.inbox.break_off(BrokenPipeError("it reads no more"))
        for _ in range(50):
            await target.outbox.write(b"x" * 1000)
        await target.outbox.close()

    lab.serve_target = deaf
    client = await spdy(lab)
    data, error = await client.pair(80, "1")
    for _ in range(20):
        await client.send(data, b"y" * 1000)
    await client.until(lambda: {data, error} <= client.ended)
    assert len(client.got[data]) == 50_000
    assert client.got[error] == b""
    client.close()


async def test_a_reset_by_the_client_ends_its_connection_and_no_other(lab: Lab) -> None:
    client = await spdy(lab)
    one, _ = await client.pair(80, "1")
    two, _ = await client.pair(80, "2")
    await client.send(one, b"x" * 10_000)
    await until(lambda: len(lab.targets) == 2)
    client.spdy.reset(one)
    await client.flush()
    await until(lab.targets[0].aborted.is_set)
    await client.send(two, b"still here")
    await client.until(lambda: client.got[two] == b"still here")
    client.close()


async def test_a_bug_in_one_connection_ends_no_other(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    client = await spdy(lab)
    good, _ = await client.pair(80, "1")
    await until(lambda: lab.targets)
    lab.streams.dial = None  # type: ignore[assignment]  # whatever is wrong with it
    _, error = await client.pair(80, "2")
    await client.until(lambda: error in client.ended)
    assert client.got[error] == b"crib failed, see its log"
    await client.send(good, b"still here")
    await client.until(lambda: client.got[good] == b"still here")
    client.close()
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("connect", [spdy, tunnel])
async def test_a_hundred_connections_of_one_client(lab: Lab, connect: Any) -> None:
    client = await connect(lab)
    pairs = [await client.pair(80 + number, str(number)) for number in range(100)]
    for number, (data, _) in enumerate(pairs):
        await client.send(data, b"%d " % number * 1000, fin=True)
    await client.until(lambda: all({*pair} <= client.ended for pair in pairs))
    for number, (data, _) in enumerate(pairs):
        assert client.got[data] == b"%d " % number * 1000
    client.close()
    await until(lambda: all(target.aborted.is_set() for target in lab.targets))


async def test_pairs_come_in_any_order_and_old_clients_name_none(lab: Lab) -> None:
    client = await spdy(lab)
    data = await client.accepted(("streamtype", "data"), ("port", "80"), ("requestid", "1"))
    await client.accepted(("streamtype", "error"), ("port", "80"), ("requestid", "1"))
    await client.accepted(("streamtype", "error"), ("port", "81"))
    old = await client.accepted(("streamtype", "data"), ("port", "81"))
    for stream in (data, old):
        await client.send(stream, b"x", fin=True)
        await client.until(lambda stream=stream: stream in client.ended)  # type: ignore[misc]
    client.close()


async def test_halves_that_stay_alone_and_nonsense_are_reset(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PAIR_SECONDS", 0.2)
    client = await spdy(lab)
    alone = await client.accepted(("streamtype", "data"), ("port", "80"), ("requestid", "1"))
    twice = await client.open(("streamtype", "data"), ("port", "80"), ("requestid", "1"))
    nonsense = [
        await client.open(("streamtype", "video"), ("port", "80")),
        await client.open(("streamtype", "data"), ("port", "70000")),
        await client.open(("streamtype", "data")),
        await client.open(("streamtype", "error"), ("port", "81"), ("requestid", "1")),
    ]
    await client.until(lambda: {twice, alone, *nonsense} <= client.reset.keys())
    assert not lab.targets
    client.close()


async def test_a_half_that_its_client_reset_leaves_its_place(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_HALVES", 3)
    client = await spdy(lab)
    for number in range(20):
        half = await client.accepted(("streamtype", "data"), ("port", "80"), ("requestid", str(number)))
        client.spdy.reset(half)
        await client.flush()
    data, _ = await client.pair(80, "0")
    await client.send(data, b"x")
    await client.until(lambda: client.got[data] == b"x")
    client.close()


@pytest.mark.parametrize("connect", [spdy, tunnel])
async def test_a_client_that_goes_leaves_nothing(lab: Lab, connect: Any) -> None:
    client = await connect(lab)
    for number in range(5):
        data, _ = await client.pair(80, str(number))
        await client.send(data, b"x")
    await client.accepted(("streamtype", "data"), ("port", "80"), ("requestid", "alone"))
    await until(lambda: len(lab.targets) == 5)
    client.close()
    await until(lambda: all(target.aborted.is_set() for target in lab.targets))
    await until(lambda: not lab.server._clients)


async def test_a_pod_that_does_not_read_holds_up_no_more_than_its_bound(lab: Lab) -> None:
    async def reads_nothing(target: Target) -> None:
        await target.aborted.wait()

    lab.serve_target = reads_nothing
    client = await spdy(lab)
    data, _ = await client.pair(80, "1")

    async def send_for_ever() -> None:
        while True:
            await client.send(data, bytes(256 << 10))

    sending = asyncio.ensure_future(send_for_ever())
    done, _ = await asyncio.wait((sending,), timeout=0.5)
    assert not done
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    client.wire.reset()


# WebSocket channels


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", ""])
async def test_each_port_of_a_websocket_has_two_channels_that_begin_with_it(lab: Lab, protocol: str) -> None:
    url = lab.forward_url() + "?port=80&port=443"
    client = await WsClient.connect(url, [protocol] if protocol else [])
    await client.message(b"\2secret")
    await client.until(lambda: client.channel(2).endswith(b"secret"))
    assert client.channel(0) == client.channel(1) == wire.encode_port(80)
    assert client.channel(2) == wire.encode_port(443) + b"secret"
    assert client.channel(3) == wire.encode_port(443)
    await client.message(b"\1nobody reads errors of clients")
    await client.message(b"\x0anor this")
    client.close()
    await until(lambda: all(target.aborted.is_set() for target in lab.targets))


async def test_what_a_client_sends_on_error_channels_holds_no_connection_up(lab: Lab) -> None:
    client = await WsClient.connect(lab.forward_url(80), ["v4.channel.k8s.io"])
    await client.message(b"\1" + bytes(UNREAD_BYTES))
    await client.message(b"\0heard")
    await client.until(lambda: client.channel(0)[2:] == b"heard")
    client.close()


async def test_a_websocket_takes_its_ports_from_the_call_when_it_names_none(lab: Lab) -> None:
    client = await WsClient.connect(lab.forward_url(80, 81), ["v4.channel.k8s.io"])
    await until(lambda: len(lab.targets) == 2)
    client.close()


async def test_a_websocket_ends_with_the_last_of_its_connections(lab: Lab) -> None:
    async def say_and_end(target: Target) -> None:
        await target.outbox.write(b"bye from %d" % target.address.port)

    lab.serve_target = say_and_end
    lab.refused.add(81)
    client = await WsClient.connect(lab.forward_url(80, 81), ["v4.channel.k8s.io"])
    await client.to_end()
    assert client.channel(0)[2:] == b"bye from 80"
    assert b"refused" in client.channel(3)[2:]
    assert client.close_code == 1000
    client.close()


async def test_a_websocket_without_ports_or_for_others_is_refused(lab: Lab) -> None:
    for url in (lab.forward_url(), lab.forward_url() + "?port=x", lab.forward_url() + "?port=0"):
        with pytest.raises(Refused) as caught:
            await WsClient.connect(url, ["v4.channel.k8s.io"])
        assert caught.value.status == 400
    client = await WsClient.connect(lab.forward_url(80) + "?port=81", ["v4.channel.k8s.io"])
    await client.to_end()
    assert b"was not asked for" in client.channel(1)
    client.close()


async def test_the_log_tells_of_a_session_and_of_what_failed_in_it(
    make_lab: MakeLab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "crib.streaming.portforward")
    lab = await make_lab()
    lab.refused.add(81)
    client = await spdy(lab)
    await client.pair(80, "1")
    _, error = await client.pair(81, "2")
    await client.until(lambda: error in client.ended)
    client.close()
    await until(lambda: not lab.server._clients)
    told = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert any("tcp:81" in line and "refused" in line for line in told)
    last = f"forward to sandbox {lab.pod.id}: 2 connections within "
    assert re.fullmatch(re.escape(last) + r"\d+\.\d s", told[-1])
