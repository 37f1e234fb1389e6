"""kubectl attach sends a size that is one too large and then the right one, so that what runs there draws its
screen anew: a terminal that has that size already sees a change only by both."""

from __future__ import annotations

from crib.model.streams import TerminalSize
from crib.wire.remotecommand import SizeMessage, encode_resize
from tests.unit.streaming.clients import SpdyClient, WsClient
from tests.unit.streaming.lab import MakeLab, forever, until

RESIZE = b"\4"
BOTH = encode_resize(SizeMessage(81, 25)) + encode_resize(SizeMessage(80, 24))
EXPECTED = [TerminalSize(81, 25), TerminalSize(80, 24)]


async def test_both_sizes_of_one_write_come_over_spdy(make_lab: MakeLab) -> None:
    lab = await make_lab(tty=True)
    lab.script = forever
    client = await SpdyClient.connect(lab.attach_url(stdin=True, stdout=True, tty=True), "v4.channel.k8s.io")
    streams = await client.terminal("stdin", "stdout", "resize")
    await client.send(streams["resize"], encode_resize(SizeMessage(1, 1)) + BOTH)
    await until(lambda: lab.commands and lab.commands[0].sizes[-1:] == EXPECTED[1:])
    assert lab.commands[0].sizes == EXPECTED
    client.close()


async def test_both_sizes_come_over_a_websocket_in_one_message_or_two(make_lab: MakeLab) -> None:
    lab = await make_lab(tty=True)
    lab.script = forever
    for messages in ([BOTH], BOTH.splitlines(keepends=True)):
        lab.commands.clear()
        url = lab.attach_url(stdin=True, stdout=True, tty=True)
        client = await WsClient.connect(url, ["v5.channel.k8s.io"])
        # In one write, so that the server finds them together.
        await client.wire.send(b"".join(masked(RESIZE + message) for message in messages))
        await until(lambda: lab.commands and lab.commands[0].sizes[-1:] == EXPECTED[1:])
        assert lab.commands[0].sizes == EXPECTED
        lab.commands[0].task.cancel()
        client.close()


def masked(data: bytes) -> bytes:
    """A message in one frame, whose mask changes nothing."""
    return bytes((0x82, 0x80 | len(data))) + bytes(4) + data
