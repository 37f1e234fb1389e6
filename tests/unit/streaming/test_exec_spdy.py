"""Exec and attach over SPDY, as kubectl and crictl ask for them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from crib.model.errors import Broken, InvalidRequest, WrongState
from crib.model.streams import TerminalSize
from crib.streaming import remotecommand
from crib.wire import spdy
from crib.wire.remotecommand import Exited, Failed, SizeMessage, encode_resize
from tests.unit.streaming.clients import Refused, SpdyClient
from tests.unit.streaming.lab import Command, Lab, MakeLab, cat, forever, until

V4 = "v4.channel.k8s.io"
ALL = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")


async def both_ways(command: Command) -> int:
    assert command.stdin is not None
    assert command.stderr is not None
    await command.say(b"out:" + await command.stdin.read_all())
    await command.stderr.write(b"err")
    return 3


@pytest.mark.parametrize("protocol", ALL)
async def test_output_and_outcome_come_in_every_version(lab: Lab, protocol: str) -> None:
    lab.script = both_ways
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True, stderr=True), protocol)
    assert client.answer["x-stream-protocol-version"] == protocol
    streams = await client.terminal("stdin", "stdout", "stderr")
    await client.send(streams["stdin"], b"in", fin=True)
    outcome = await client.outcome(streams, has_status=protocol == V4)
    assert client.got[streams["stdout"]] == b"out:in"
    assert client.got[streams["stderr"]] == b"err"
    expected = Exited(3) if protocol == V4 else Failed("the command ended with exit code 3")
    assert outcome == expected
    client.close()
    await until(lab.commands[0].closed.is_set)


@pytest.mark.parametrize("protocol", ALL)
async def test_success_is_told_in_every_version(lab: Lab, protocol: str) -> None:
    client = await SpdyClient.connect(lab.exec_url(), protocol)
    streams = await client.terminal("stdout")
    assert await client.outcome(streams, has_status=protocol == V4) == Exited(0)
    assert bool(client.got[streams["error"]]) == (protocol == V4)
    client.close()


async def test_the_client_s_first_known_version_is_taken_and_none_at_all_is_the_oldest(lab: Lab) -> None:
    client = await SpdyClient.connect(lab.exec_url(), "v9.channel.k8s.io", "v3.channel.k8s.io", V4)
    assert client.answer["x-stream-protocol-version"] == "v3.channel.k8s.io"
    client.close()
    client = await SpdyClient.connect(lab.exec_url())
    assert client.answer["x-stream-protocol-version"] == "channel.k8s.io"
    client.close()


async def test_a_client_that_speaks_no_version_is_told_those_that_there_are(lab: Lab) -> None:
    with pytest.raises(Refused) as caught:
        await SpdyClient.connect(lab.exec_url(), "v9.channel.k8s.io")
    assert caught.value.status == 403
    assert caught.value.headers["x-accepted-stream-protocol-versions"] == ", ".join(ALL)


async def test_a_terminal_has_input_output_and_sizes(make_lab: MakeLab) -> None:
    lab = await make_lab()

    async def vi(command: Command) -> int:
        await command.resized.wait()
        await cat(command)
        return 0

    lab.script = vi
    client = await SpdyClient.connect(lab.exec_url("vi", tty=True, stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout", "resize")
    size = encode_resize(SizeMessage(80, 24))
    await client.send(streams["resize"], size[:5])
    await client.send(streams["resize"], size[5:] + encode_resize(SizeMessage(100, 30)))
    await until(lambda: lab.commands and lab.commands[0].sizes)
    assert lab.commands[0].sizes[-1] == TerminalSize(100, 30)
    await client.send(streams["stdin"], b":q\n", fin=True)
    assert await client.outcome(streams) == Exited(0)
    assert client.got[streams["stdout"]] == b":q\n"
    client.close()


async def test_nonsense_for_a_size_does_no_harm(lab: Lab) -> None:
    lab.script = cat
    client = await SpdyClient.connect(lab.exec_url("vi", tty=True, stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout", "resize")
    await client.send(streams["resize"], b"nonsense}")
    await client.send(streams["resize"], encode_resize(SizeMessage(100, 30)))
    await until(lambda: lab.commands and lab.commands[0].sizes)
    assert lab.commands[0].sizes == [TerminalSize(100, 30)]
    await client.send(streams["stdin"], b"x", fin=True)
    assert await client.outcome(streams) == Exited(0)
    client.close()


async def test_a_command_that_cannot_be_run_fails_with_words_on_the_error_stream(lab: Lab) -> None:
    lab.failure = Broken("exec of 'nope' in container x: no such file")
    for protocol in (V4, "v2.channel.k8s.io"):
        client = await SpdyClient.connect(lab.exec_url("nope"), protocol)
        streams = await client.terminal("stdout")
        outcome = await client.outcome(streams, has_status=protocol == V4)
        assert outcome == Failed("exec of 'nope' in container x: no such file")
        client.close()


async def test_a_bug_is_told_as_a_failure_and_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async def bug(command: Command) -> int:
        raise ZeroDivisionError("secret words")

    lab.script = bug
    client = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await client.terminal("stdout")
    assert await client.outcome(streams) == Failed("crib failed, see its log")
    assert "secret words" in caplog.text
    client.close()


async def test_much_output_arrives_whole_before_the_outcome(lab: Lab) -> None:
    piece = bytes(range(256)) * 1024

    async def flood(command: Command) -> int:
        for _ in range(40):
            await command.say(piece)
        return 7

    lab.script = flood
    client = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await client.terminal("stdout")
    assert await client.outcome(streams) == Exited(7)
    assert client.got[streams["stdout"]] == piece * 40
    client.close()


async def test_the_end_waits_for_a_client_that_reads_late(lab: Lab) -> None:
    """The command is over, its output is not with the client yet: nothing of it is cut off."""

    async def flood(command: Command) -> int:
        for _ in range(64):
            await command.say(bytes(64 << 10))
        return 0

    lab.script = flood
    client = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await client.terminal("stdout")
    await until(lambda: lab.commands)
    await asyncio.sleep(0)
    assert await client.outcome(streams) == Exited(0)
    assert len(client.got[streams["stdout"]]) == 4 << 20
    assert not any(isinstance(event, spdy.GoAwayReceived) for event in client.seen)
    client.close()


async def test_a_slow_client_holds_up_its_own_command_and_no_other(lab: Lab) -> None:
    written = 0

    async def flood(command: Command) -> int:
        nonlocal written
        for _ in range(400):
            await command.say(bytes(64 << 10))
            written += 64 << 10
        return 0

    lab.script = flood
    slow = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await slow.terminal("stdout")
    lab.script = cat
    quick = await SpdyClient.connect(lab.exec_url("cat", stdin=True, stdout=True), V4)
    others = await quick.terminal("stdin", "stdout")
    for number in range(100):
        await quick.send(others["stdin"], b"%d\n" % number)
        await quick.until(lambda n=number: quick.got[others["stdout"]].endswith(b"%d\n" % n))  # type: ignore[misc]
    before = written
    assert before < 400 * 64 << 10, "the command did not wait"
    assert await slow.outcome(streams) == Exited(0)
    assert len(slow.got[streams["stdout"]]) == 400 * 64 << 10
    slow.close()
    quick.close()


async def test_input_gets_through_while_output_waits_for_the_client(lab: Lab) -> None:
    """A paused terminal, then Ctrl-C: pings and data come in while nothing is read."""

    async def flood_until_told(command: Command) -> int:
        assert command.stdin is not None
        assert command.stdout is not None
        stopping = asyncio.ensure_future(command.stdin.read())
        while not stopping.done():
            writing = asyncio.ensure_future(command.say(bytes(64 << 10)))
            await asyncio.wait((stopping, writing), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                writing.cancel()
        return 130

    lab.script = flood_until_told
    client = await SpdyClient.connect(lab.exec_url("yes", tty=True, stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout", "resize")
    sent = -1
    await until(lambda: lab.commands)
    pipe = lab.commands[0].stdout
    assert pipe is not None
    while pipe.written != sent:  # until the server's buffers are full
        sent = pipe.written
        await asyncio.sleep(0.05)  # the pipe gives no notice when it is no longer written to
    for _ in range(10):
        client.spdy.ping()
    await client.send(streams["stdin"], b"\3")
    await until(lab.commands[0].task.done)
    assert await client.outcome(streams) == Exited(130)
    client.close()


async def test_attach_joins_and_tells_the_end_without_the_container_s_code(lab: Lab) -> None:
    lab.script = both_ways
    clients = [
        await SpdyClient.connect(lab.attach_url(stdin=True, stdout=True, stderr=True), V4) for _ in range(3)
    ]
    for client in clients:
        streams = await client.terminal("stdin", "stdout", "stderr")
        await client.send(streams["stdin"], b"x", fin=True)
        assert await client.outcome(streams) == Exited(0)
        assert client.got[streams["stdout"]] == b"out:x"
        client.close()


async def test_attach_takes_and_drops_input_of_a_container_without_any(make_lab: MakeLab) -> None:
    lab = await make_lab(stdin=False)
    done = asyncio.Event()

    async def script(command: Command) -> int:
        await done.wait()
        return 0

    lab.script = script
    client = await SpdyClient.connect(lab.attach_url(stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout")
    await until(lambda: lab.commands)
    lab.commands[0].stdin = None
    await client.send(streams["stdin"], b"x" * 100)
    done.set()
    assert await client.outcome(streams) == Exited(0)
    client.close()


def test_what_is_asked_for_has_to_make_sense() -> None:
    lab = Lab(tty=True)
    with pytest.raises(InvalidRequest, match="stderr"):
        lab.exec_url("sh", tty=True, stdout=True, stderr=True)
    with pytest.raises(InvalidRequest, match="stdout"):
        lab.exec_url("sh", tty=True)
    with pytest.raises(InvalidRequest, match="has a terminal"):
        lab.attach_url(stdout=True)


async def test_a_container_that_stopped_meanwhile_is_told_of(lab: Lab) -> None:
    url = lab.exec_url()
    lab.failure = WrongState("exec in container x: it is exited")
    client = await SpdyClient.connect(url, V4)
    streams = await client.terminal("stdout")
    assert await client.outcome(streams) == Failed("exec in container x: it is exited")
    client.close()


async def test_unknown_and_second_streams_are_reset_and_the_rest_goes_on(lab: Lab) -> None:
    client = await SpdyClient.connect(lab.exec_url(), V4)
    unknown = await client.open(("streamtype", "video"))
    unasked = await client.open(("streamtype", "stdin"))
    error = await client.accepted(("streamtype", "error"))
    second = await client.open(("streamtype", "error"))
    await client.until(lambda: {unknown, unasked, second} <= client.reset.keys())
    stdout = await client.accepted(("streamtype", "stdout"))
    assert await client.outcome({"error": error, "stdout": stdout}) == Exited(0)
    client.close()


# clients that go away


async def test_a_client_that_opens_too_few_streams_is_closed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms_own = remotecommand.choose

    def choose(head, request, streams, settings):  # type: ignore[no-untyped-def]  # as the room's own
        # only from here on: a head may take its time
        return rooms_own(head, request, streams, replace(settings, creation_timeout=0.2))

    monkeypatch.setattr(remotecommand, "choose", choose)
    client = await SpdyClient.connect(lab.exec_url(), V4)
    await client.open(("streamtype", "error"))
    await client.to_end()
    client.close()
    assert not lab.commands


async def test_a_client_that_leaves_before_its_streams_runs_nothing(lab: Lab) -> None:
    client = await SpdyClient.connect(lab.exec_url(), V4)
    await client.open(("streamtype", "error"))
    client.close()
    await until(lambda: not lab.server._clients)
    assert not lab.commands


async def test_a_command_without_its_client_loses_its_input_and_is_drained(lab: Lab) -> None:
    """Its output is dropped, so that it comes to its end."""

    async def goes_on(command: Command) -> int:
        assert command.stdin is not None
        await command.stdin.read_all()
        for _ in range(100):
            await command.say(bytes(64 << 10))
        return 0

    lab.script = goes_on
    client = await SpdyClient.connect(lab.exec_url("sh", stdin=True, stdout=True), V4)
    await client.terminal("stdin", "stdout")
    await until(lambda: lab.commands)
    client.close()
    await until(lab.commands[0].closed.is_set)
    assert lab.commands[0].task.result() == 0
    assert not lab.commands[0].killed.is_set()


async def test_a_terminal_without_its_client_is_hung_up(lab: Lab) -> None:
    lab.script = forever
    client = await SpdyClient.connect(lab.exec_url("sh", tty=True, stdin=True, stdout=True), V4)
    await client.terminal("stdin", "stdout", "resize")
    await until(lambda: lab.commands)
    client.close()
    await until(lab.commands[0].closed.is_set)
    assert not lab.commands[0].killed.is_set()


async def test_by_configuration_a_command_ends_with_its_client(make_lab: MakeLab) -> None:
    lab = await make_lab(kill_abandoned=True)
    lab.script = forever
    client = await SpdyClient.connect(lab.exec_url("sh"), V4)
    await client.terminal("stdout")
    await until(lambda: lab.commands)
    assert lab.commands[0].wanted.contained  # type: ignore[union-attr]
    client.close()
    await until(lab.commands[0].closed.is_set)
    assert lab.commands[0].killed.is_set()


async def test_a_client_that_leaves_within_output_or_after_the_outcome_leaves_nothing(lab: Lab) -> None:
    async def flood(command: Command) -> int:
        for _ in range(100):
            await command.say(bytes(64 << 10))
        return 0

    lab.script = flood
    client = await SpdyClient.connect(lab.exec_url(), V4)
    streams = await client.terminal("stdout")
    await client.until(lambda: client.got[streams["stdout"]])
    client.close()
    lab.script = cat
    client = await SpdyClient.connect(lab.exec_url("true", stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout")
    await client.send(streams["stdin"], fin=True)
    await client.outcome(streams)
    client.wire.writer.write_eof()
    await client.to_end()
    client.close()
    await until(lambda: not lab.server._clients)
    await until(lambda: all(command.closed.is_set() for command in lab.commands))


async def test_endless_input_after_the_end_does_not_hide_that_the_client_goes(lab: Lab) -> None:
    client = await SpdyClient.connect(lab.exec_url("true", stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout")
    assert await client.outcome(streams) == Exited(0)
    for _ in range(64):
        await client.send(streams["stdin"], bytes(256 << 10))
    client.close()
    await until(lambda: not lab.server._clients)


async def test_a_command_that_does_not_read_its_input_holds_up_its_client(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded, and that the client goes is still seen."""
    monkeypatch.setattr("crib.tunnel.inbox.LOOK_SECONDS", 0.05)
    lab.script = forever
    client = await SpdyClient.connect(lab.exec_url("sleep", stdin=True, stdout=True), V4)
    streams = await client.terminal("stdin", "stdout")

    async def send_for_ever() -> None:
        while True:
            await client.send(streams["stdin"], bytes(256 << 10))

    sending = asyncio.ensure_future(send_for_ever())
    done, _ = await asyncio.wait((sending,), timeout=0.5)
    assert not done, "the server took everything"
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    client.wire.reset()
    await until(lambda: not lab.server._clients)


async def test_many_sessions_at_once_get_each_their_own(lab: Lab) -> None:
    lab.script = cat

    async def session(number: int) -> None:
        client = await SpdyClient.connect(lab.exec_url("cat", stdin=True, stdout=True), V4)
        streams = await client.terminal("stdin", "stdout")
        data = (b"%d " % number) * 10_000
        await client.send(streams["stdin"], data, fin=True)
        assert await client.outcome(streams) == Exited(0)
        assert client.got[streams["stdout"]] == data
        client.close()

    await asyncio.gather(*(session(number) for number in range(100)))


async def test_the_log_has_one_line_of_a_stream_and_no_argument(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = await SpdyClient.connect(lab.exec_url("mysql", "--password=hunter2", stdout=True), V4)
    streams = await client.terminal("stdout")
    await client.outcome(streams)
    client.close()
    await until(lambda: not lab.server._clients)
    lines = [r.getMessage() for r in caplog.records if r.name == remotecommand.__name__]
    assert len(lines) == 1
    told = f"exec of 'mysql' in container {lab.box.id}: exit code 0 after "
    assert re.fullmatch(re.escape(told) + r"\d+\.\d s", lines[0])
    assert "hunter2" not in caplog.text
