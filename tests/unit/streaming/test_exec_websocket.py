"""Exec and attach over the channels of a WebSocket."""

from __future__ import annotations

import asyncio

import pytest
from wsproto import events

from crib.model.errors import Broken
from crib.model.streams import TerminalSize
from crib.streaming.link import UNREAD_BYTES
from crib.wire import channel_messages as messages
from crib.wire.channel_messages import ChannelProtocol
from crib.wire.remotecommand import (
    WEBSOCKET_PROTOCOLS,
    Exited,
    Failed,
    SizeMessage,
    decode_outcome,
    encode_resize,
)
from tests.unit.streaming.clients import Refused, WsClient
from tests.unit.streaming.lab import Command, Lab, MakeLab, cat, forever, until

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
V5 = "v5.channel.k8s.io"


async def send(client: WsClient, protocol: ChannelProtocol, channel: int, data: bytes) -> None:
    message = messages.encode_message(protocol, channel, data)
    if protocol.is_text:
        await client.emit(events.TextMessage(message.decode()))
    else:
        await client.message(message)


async def one_line(command: Command) -> int:
    """Answers the first input, as nothing but version 5 can end it."""
    assert command.stdin is not None
    assert command.stderr is not None
    await command.say(b"out:" + await command.stdin.read())
    await command.stderr.write(b"err")
    return 3


@pytest.mark.parametrize("protocol", WEBSOCKET_PROTOCOLS, ids=lambda each: each.name or "none")
async def test_output_and_outcome_come_in_every_version(lab: Lab, protocol: ChannelProtocol) -> None:
    lab.script = one_line
    url = lab.exec_url("sh", stdin=True, stdout=True, stderr=True)
    client = await WsClient.connect(url, [protocol.name] if protocol.name else [])
    assert client.subprotocol == (protocol.name or None)
    await send(client, protocol, STDIN, b"in")
    await client.to_end()
    channel = client.text_channel if protocol.is_text else client.channel
    assert (channel(STDOUT), channel(STDERR)) == (b"out:in", b"err")
    outcome = decode_outcome(channel(ERROR), has_status=protocol.has_status)
    expected = Exited(3) if protocol.has_status else Failed("the command ended with exit code 3")
    assert outcome == expected
    assert client.close_code == 1000
    client.close()


async def test_all_output_comes_before_the_outcome_and_that_before_the_close(lab: Lab) -> None:
    piece = bytes(range(256)) * 700  # not a whole number of messages

    async def flood(command: Command) -> int:
        for _ in range(30):
            await command.say(piece)
        return 0

    lab.script = flood
    client = await WsClient.connect(lab.exec_url(), [V5])
    await client.to_end()
    assert client.channel(STDOUT) == piece * 30
    assert client.raw[-1][0] == ERROR
    assert decode_outcome(client.raw[-1][1:], has_status=True) == Exited(0)
    client.close()


async def test_the_first_message_is_empty_for_clients_that_wait_for_one(lab: Lab) -> None:
    lab.script = forever
    client = await WsClient.connect(lab.exec_url(), [V5])
    await client.until(lambda: client.raw)
    assert client.raw[0] == bytes([STDOUT])
    client.close()


async def test_version_5_ends_input_and_the_rest_goes_on(lab: Lab) -> None:
    async def count(command: Command) -> int:
        assert command.stdin is not None
        await command.say(b"%d" % len(await command.stdin.read_all()))
        return 0

    lab.script = count
    client = await WsClient.connect(lab.exec_url("wc", stdin=True, stdout=True), [V5])
    await client.message(bytes([STDIN]) + b"x" * 70_000)
    await client.message(bytes([255, STDIN]))
    await client.to_end()
    assert client.channel(STDOUT) == b"70000"
    client.close()


@pytest.mark.parametrize("size", [1, 3, 64 << 10])
async def test_messages_may_come_in_any_pieces_and_may_be_large(lab: Lab, size: int) -> None:
    """A client's library may send megabytes as one message, and cut it where it likes."""
    lab.script = cat
    total = 3 << 20 if size > 3 else 200
    data = bytes(number & 0xFF for number in range(total))
    client = await WsClient.connect(lab.exec_url("cat", stdin=True, stdout=True), [V5])

    async def send_all() -> None:
        whole = bytes([STDIN]) + data
        for at in range(0, len(whole), size):
            await client.message(whole[at : at + size], finished=at + size >= len(whole))
        await client.message(b"\xff", finished=False)
        await client.message(bytes([STDIN]))

    sending = asyncio.ensure_future(send_all())
    await client.until(lambda: len(client.channel(STDOUT)) == total)
    await sending
    await client.to_end()
    assert client.channel(STDOUT) == data
    client.close()


async def test_a_terminal_is_resized_and_nonsense_does_no_harm(lab: Lab) -> None:
    lab.script = cat
    client = await WsClient.connect(lab.exec_url("vi", tty=True, stdin=True, stdout=True), [V5])
    await client.message(bytes([RESIZE]) + b"nonsense}")
    await client.message(bytes([RESIZE]) + encode_resize(SizeMessage(100, 30)))
    await until(lambda: lab.commands and lab.commands[0].sizes)
    assert lab.commands[0].sizes == [TerminalSize(100, 30)]
    await client.message(bytes([9]) + b"nobody listens")
    await client.message(b"")
    await client.message(bytes([255, STDIN]))
    await client.to_end()
    assert decode_outcome(client.channel(ERROR), has_status=True) == Exited(0)
    client.close()


async def test_what_a_client_sends_on_channels_that_are_ours_holds_nothing_up(lab: Lab) -> None:
    lab.script = cat
    url = lab.exec_url("cat", stdin=True, stdout=True, stderr=True)
    client = await WsClient.connect(url, [V5])
    for channel in (STDOUT, STDERR, ERROR):
        await client.message(bytes([channel]) + bytes(UNREAD_BYTES))
    await client.message(bytes([STDIN]) + b"heard")
    await client.message(bytes([255, STDIN]))
    await client.to_end()
    assert client.channel(STDOUT) == b"heard"
    client.close()


async def test_a_command_that_cannot_be_run_fails_with_words(lab: Lab) -> None:
    lab.failure = Broken("exec of 'nope' in container x: no such file")
    client = await WsClient.connect(lab.exec_url("nope"), ["v4.channel.k8s.io"])
    await client.to_end()
    outcome = decode_outcome(client.channel(ERROR), has_status=True)
    assert outcome == Failed("exec of 'nope' in container x: no such file")
    client.close()


async def test_attach_goes_the_same_way(lab: Lab) -> None:
    lab.script = cat
    client = await WsClient.connect(lab.attach_url(stdin=True, stdout=True, stderr=True), [V5])
    await client.message(bytes([STDIN]) + b"hello")
    await client.message(bytes([255, STDIN]))
    await client.to_end()
    assert client.channel(STDOUT) == b"hello"
    assert decode_outcome(client.channel(ERROR), has_status=True) == Exited(0)
    client.close()


async def test_pings_are_answered_with_what_they_brought(lab: Lab) -> None:
    lab.script = forever
    client = await WsClient.connect(lab.exec_url(), [V5])
    await client.emit(events.Ping(b"are you there"))
    await client.until(lambda: client.pongs)
    assert client.pongs == [b"are you there"]
    client.close()


@pytest.mark.parametrize("goodbye", [True, False])
async def test_a_client_that_goes_ends_the_session(make_lab: MakeLab, *, goodbye: bool) -> None:
    lab = await make_lab(kill_abandoned=True)
    lab.script = forever
    client = await WsClient.connect(lab.exec_url(), [V5])
    await until(lambda: lab.commands)
    if goodbye:
        await client.emit(events.CloseConnection(code=1000))
        await client.to_end()
    client.close()
    await until(lab.commands[0].killed.is_set)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\x05abcde",  # not masked
        b"\xf2\x80\0\0\0\0",  # reserved bits
        b"\x83\x80\0\0\0\0",  # a kind that there is not
        b"\x80\x80\0\0\0\0",  # a continuation of nothing
        b"\x89\xfe\x01\x00\0\0\0\0",  # a ping of 256 bytes
        b"\x82\x84\0\0\0\0\xff\0\0\0",  # half-close of no channel
        b"\x82\x82\0\0\0\0\x7fx",  # a channel beyond the last
    ],
)
async def test_a_client_that_breaks_the_protocol_is_closed_with_the_code_for_it(
    lab: Lab, frame: bytes
) -> None:
    lab.script = forever
    client = await WsClient.connect(lab.exec_url("sh", stdin=True, stdout=True), [V5])
    await client.wire.send(frame)
    await client.to_end()
    assert client.close_code == 1002
    client.close()
    await until(lambda: not lab.server._clients)


async def test_a_text_message_that_never_ends_is_refused(lab: Lab) -> None:
    lab.script = forever
    client = await WsClient.connect(lab.exec_url("sh", stdin=True, stdout=True), ["base64.channel.k8s.io"])
    for _ in range(3):
        await client.emit(events.TextMessage("0" + "A" * (512 << 10), message_finished=False))
    await client.to_end()
    assert client.close_code == 1002
    client.close()


async def test_a_reader_that_is_late_is_waited_for_and_hears_all(lab: Lab) -> None:
    async def flood(command: Command) -> int:
        for _ in range(200):
            await command.say(bytes(64 << 10))
        return 0

    lab.script = flood
    slow = await WsClient.connect(lab.exec_url(), [V5])
    lab.script = one_line
    quick = await WsClient.connect(lab.exec_url("sh", stdin=True, stdout=True, stderr=True), [V5])
    await quick.message(bytes([STDIN]) + b"x")
    await quick.to_end()
    quick.close()
    assert not lab.commands[0].task.done(), "the command did not wait"
    await slow.to_end()
    assert len(slow.channel(STDOUT)) == 200 * 64 << 10
    assert decode_outcome(slow.channel(ERROR), has_status=True) == Exited(0)
    slow.close()


async def test_many_sessions_at_once(lab: Lab) -> None:
    lab.script = cat

    async def session(number: int) -> None:
        client = await WsClient.connect(lab.exec_url("cat", stdin=True, stdout=True), [V5])
        data = (b"%d " % number) * 5_000
        await client.message(bytes([STDIN]) + data)
        await client.message(bytes([255, STDIN]))
        await client.to_end()
        assert client.channel(STDOUT) == data
        client.close()

    await asyncio.gather(*(session(number) for number in range(100)))


async def test_a_handshake_must_be_one(lab: Lab) -> None:
    with pytest.raises(Refused) as caught:
        await WsClient.connect(lab.exec_url(), ["v9.channel.k8s.io"])
    assert caught.value.status == 403
