"""Client and server of ttrpc over a pair of sockets: what one asks the other answers, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from crib.tasks.groups import Beside
from crib.ttrpc import server as server_module
from crib.ttrpc.client import TtrpcClient
from crib.ttrpc.errors import CallFailed, CallTimedOut, PeerLost
from crib.ttrpc.messages import ServiceClient, typed
from crib.ttrpc.mux import HELD_BYTES, Mux
from crib.ttrpc.reading import UNTAKEN_BYTES
from crib.ttrpc.server import ServedCall, ServedStream, Services, Streaming, TtrpcServer
from crib.wire import mux, ttrpc
from crib.wire.rpc_codes import Code
from crib.wire.ttrpc import Kind, Request
from tests.unit.ttrpc.ends import BOUND, carrier_of, carriers, served


async def echo(call: ServedCall) -> bytes:
    return call.payload


class Door:
    """A handler that waits until it is let through."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.came = asyncio.Semaphore(0)
        self.opened = asyncio.Event()
        self.cancelled = asyncio.Semaphore(0)

    async def __call__(self, call: ServedCall) -> bytes:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.came.release()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        finally:
            self.inside -= 1
        return call.payload


# one answer to one request


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 1 << 20, ttrpc.MAX_DATA_BYTES - 100])
async def test_a_payload_of_any_size_goes_there_and_back(size: int) -> None:
    async with served({"s": {"echo": echo}}) as (client, _):
        assert await client.call("s", "echo", bytes(size), BOUND) == bytes(size)


async def test_many_calls_at_a_time_each_get_their_own_answer() -> None:
    async with served({"s": {"echo": echo}}) as (client, _), asyncio.TaskGroup() as group:
        payloads = [str(number).encode() for number in range(500)]
        tasks = [group.create_task(client.call("s", "echo", one, BOUND)) for one in payloads]
        assert [await task for task in tasks] == payloads


async def test_more_calls_than_the_client_has_places_for_wait_for_one() -> None:
    door = Door()
    async with carriers() as (client_end, server_end), Beside() as beside:
        client = TtrpcClient(client_end, most_calls=2)
        TtrpcServer(server_end, {"s": {"wait": door}}, beside.start)
        calls = [beside.start("call", client.call("s", "wait", b"", BOUND)) for _ in range(5)]
        await door.came.acquire()
        await door.came.acquire()
        with pytest.raises(CallTimedOut):
            await client.call("s", "wait", b"", 0.01)
        door.opened.set()
        assert [await call for call in calls] == [b""] * 5
        assert door.most == 2


async def test_the_servers_handlers_are_bounded_and_the_others_wait_their_turn() -> None:
    door = Door()
    async with served({"s": {"wait": door}}, most_running=3) as (client, server), Beside() as beside:
        payloads = [str(number).encode() for number in range(20)]
        calls = [beside.start("call", client.call("s", "wait", one, BOUND)) for one in payloads]
        for _ in range(3):
            await door.came.acquire()
        assert server.running == 3
        door.opened.set()
        assert [await call for call in calls] == payloads
        assert door.most == 3


async def test_a_handler_learns_what_its_caller_sent_beside_the_payload() -> None:
    calls: list[ServedCall] = []

    async def note(call: ServedCall) -> bytes:
        calls.append(call)
        return b""

    async with served({"s": {"note": note}}) as (client, _):
        await client.call("s", "note", b"x", BOUND, {"key": "value"})
        await client.call("s", "note", b"x", None)
    first, second = calls
    assert first == ServedCall("s", "note", b"x", {"key": ("value",)}, BOUND)
    assert (second.metadata, second.limit) == ({}, None)


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (CallFailed(Code.NOT_FOUND, "no such thing"), Code.NOT_FOUND, "no such thing"),
        (ValueError("oops"), Code.UNKNOWN, "ValueError: oops"),
        (TimeoutError("its own"), Code.UNKNOWN, "TimeoutError: its own"),
        (PeerLost("another peer is gone"), Code.UNAVAILABLE, "another peer is gone"),
    ],
)
async def test_a_handlers_error_is_the_callers(
    raised: Exception, code: Code, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, server_module.__name__)

    async def fail(_: ServedCall) -> bytes:
        raise raised

    async with served({"s": {"fail": fail, "echo": echo}}) as (client, _):
        with pytest.raises(CallFailed, match=message) as failed:
            await client.call("s", "fail", b"", BOUND)
        assert failed.value.code == code
        assert await client.call("s", "echo", b"on", BOUND) == b"on"


async def test_what_the_server_does_not_have_is_unimplemented() -> None:
    async with served({"s": {"echo": echo}}) as (client, _):
        for service, method, what in (("s", "m", "method s/m"), ("x", "echo", "service x/echo")):
            with pytest.raises(CallFailed, match=f"no {what} here") as failed:
                await client.call(service, method, b"", BOUND)
            assert failed.value.code == Code.UNIMPLEMENTED


async def test_an_answer_that_is_too_long_is_an_error_and_the_connection_goes_on() -> None:
    async def long(_: ServedCall) -> bytes:
        return bytes(ttrpc.MAX_DATA_BYTES)

    async with served({"s": {"long": long, "echo": echo}}) as (client, _):
        with pytest.raises(CallFailed, match="at most 4194304") as failed:
            await client.call("s", "long", b"", BOUND)
        assert failed.value.code == Code.RESOURCE_EXHAUSTED
        with pytest.raises(ttrpc.Oversized):
            await client.call("s", "echo", bytes(ttrpc.MAX_DATA_BYTES), BOUND)
        assert await client.call("s", "echo", b"on", BOUND) == b"on"


# time limits, cancellation, death


async def test_a_call_ends_at_its_limit_and_its_handler_is_told() -> None:
    door = Door()
    async with served({"s": {"wait": door, "echo": echo}}) as (client, _):
        with pytest.raises(
            CallTimedOut, match=r"s/wait was not answered within 0\.05 s|not done within"
        ) as out:
            await client.call("s", "wait", b"", 0.05)
        assert out.value.code == Code.DEADLINE_EXCEEDED
        await door.cancelled.acquire()
        assert await client.call("s", "echo", b"on", BOUND) == b"on"


async def test_a_server_answers_by_itself_when_its_callers_time_is_over() -> None:
    """The caller here keeps no time of its own."""
    door = Door()
    request = ttrpc.encode_request(Request("s", "wait", b"", 10_000_000))
    async with carriers() as (raw, server_end), Beside() as beside:
        TtrpcServer(server_end, {"s": {"wait": door}}, beside.start)
        answers = Answers()
        raw.attach(answers)
        raw.put(ttrpc.frame(1, Kind.REQUEST, 0, request))
        frame = await answers.frames.get()
        assert ttrpc.decode_response(frame.data).code == Code.DEADLINE_EXCEEDED


async def test_a_cancelled_call_leaves_the_connection_as_it_was() -> None:
    door = Door()
    async with served({"s": {"wait": door, "echo": echo}}) as (client, _), Beside() as beside:
        call = beside.start("call", client.call("s", "wait", b"", BOUND))
        await door.came.acquire()
        call.cancel()
        door.opened.set()
        assert await client.call("s", "echo", b"on", BOUND) == b"on"
        assert call.cancelled()


async def test_the_peers_death_ends_all_calls_at_once_and_those_to_come() -> None:
    door = Door()
    async with carriers() as (client_end, server_end), Beside() as beside:
        client = TtrpcClient(client_end)
        TtrpcServer(server_end, {"s": {"wait": door}}, beside.start)
        calls = [beside.start("call", client.call("s", "wait", b"", None)) for _ in range(10)]
        for _ in calls:
            await door.came.acquire()
        server_end.abort("killed")
        for call in calls:
            with pytest.raises(PeerLost):
                await call
        with pytest.raises(PeerLost):
            await client.call("s", "wait", b"", BOUND)
        assert client.is_gone
        assert await client.gone()


async def test_the_clients_death_cancels_its_handlers() -> None:
    door = Door()
    async with served({"s": {"wait": door}}) as (client, server), Beside() as beside:
        beside.start("call", client.call("s", "wait", b"", BOUND))
        await door.came.acquire()
        client.close()
        await door.cancelled.acquire()
        assert await server.gone() == "the peer closed the connection"


async def test_a_server_that_ends_cancels_its_handlers_and_tells_the_callers() -> None:
    """The keeper of the handlers' tasks ends them, and the connection is still there."""
    door = Door()
    async with carriers() as (client_end, server_end), Beside() as beside:
        client = TtrpcClient(client_end)
        async with Beside() as handlers:
            TtrpcServer(server_end, {"s": {"wait": door}}, handlers.start)
            call = beside.start("call", client.call("s", "wait", b"", BOUND))
            await door.came.acquire()
        with pytest.raises(CallFailed, match="wait was cancelled") as failed:
            await call
        assert failed.value.code == Code.CANCELLED


async def test_a_client_that_comes_to_a_dead_connection_learns_it() -> None:
    async with carriers() as (client_end, server_end):
        server_end.abort("killed")
        client_end.resume()  # the loop notices while nobody is attached
        await client_end.over.wait()
        client = TtrpcClient(client_end)
        assert client.is_gone
        with pytest.raises(PeerLost):
            await client.call("s", "m", b"", BOUND)


@pytest.mark.parametrize("cut", range(len(ttrpc.frame(1, Kind.RESPONSE, 0, b"\x12\x02ok"))))
async def test_an_answer_that_breaks_off_anywhere_is_the_peers_loss(cut: int) -> None:
    async with carriers() as (client_end, raw), Beside() as beside:
        client = TtrpcClient(client_end)
        answers = Answers()
        raw.attach(answers)
        call = beside.start("call", client.call("s", "m", b"", BOUND))
        await answers.frames.get()
        raw.put(ttrpc.frame(1, Kind.RESPONSE, 0, b"\x12\x02ok")[:cut])
        raw.close()
        with pytest.raises(PeerLost):
            await call


class Answers:
    """A peer by hand: frames as they come."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[ttrpc.Frame] = asyncio.Queue()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader = ttrpc.FrameReader()

    def received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (frame := self._reader.next()) is not None:
            assert isinstance(frame, ttrpc.Frame)
            self.frames.put_nowait(frame)

    def lost(self, reason: str) -> None:
        self.over.set_result(reason)


@pytest.mark.parametrize("of_server", [True, False])
async def test_what_is_no_ttrpc_ends_the_connection_with_the_reason(of_server: bool) -> None:
    async with carriers() as (end, raw), Beside() as beside:
        made = TtrpcServer(end, {}, beside.start) if of_server else TtrpcClient(end)
        raw.attach(Answers())
        raw.put(b"GET / HTTP/1.1\r\n\r\n")
        assert "the peer sent what is no ttrpc: a frame of 1195725856 bytes" in await made.gone()


async def test_a_peer_that_sends_what_is_refused_and_reads_nothing_is_cut_off() -> None:
    """It sends as fast as it can, and its answers fill the buffers."""
    async with carriers() as (raw, server_end), Beside() as beside:
        server = TtrpcServer(server_end, {}, beside.start)

        async def flood() -> None:
            frame = ttrpc.frame(2, Kind.REQUEST, 0, b"")
            while True:
                raw.put(frame * 1000)
                await raw.drain()

        beside.start("flood", flood())
        assert "does not read the answers" in await server.gone()


async def test_a_server_does_not_read_further_while_its_handlers_are_all_busy() -> None:
    door = Door()
    one, other = socket.socketpair()
    one.setblocking(False)
    server_end = await carrier_of(other)
    async with asyncio.timeout(BOUND), Beside() as beside:
        TtrpcServer(server_end, {"s": {"wait": door}}, beside.start, most_running=1)
        request = ttrpc.encode_request(Request("s", "wait", bytes(1 << 16)))
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        async def flood() -> None:
            for number in range(1, 201, 2):
                await loop.sock_sendall(one, ttrpc.frame(number, Kind.REQUEST, 0, request))
            sent.set()

        beside.start("flood", flood())
        await door.came.acquire()
        await server_end.paused.wait()
        assert not sent.is_set()
        door.opened.set()
        for _ in range(99):
            await door.came.acquire()
            await loop.sock_recv(one, 1 << 16)
        await sent.wait()
        server_end.abort("the test is over")
        await server_end.over.wait()
    one.close()


async def test_calls_that_come_all_at_once_stay_bytes_until_there_is_room() -> None:
    door = Door()
    number = 5000
    request = ttrpc.encode_request(Request("s", "wait"))
    flood = b"".join(ttrpc.frame(2 * one + 1, Kind.REQUEST, 0, request) for one in range(number))
    async with carriers() as (raw, server_end), Beside() as beside:
        both = Mux(server_end, (1,))
        server = TtrpcServer(both.carrier(1), {"s": {"wait": door}}, beside.start, most_running=1)
        answers = Answers()
        Mux(raw, (1,)).carrier(1).attach(answers)
        raw.put(mux.frames(1, flood))
        await door.came.acquire()
        door.opened.set()
        got: set[int] = set()
        most = 0
        while len(got) < number:
            got.add((await answers.frames.get()).stream)
            most = max(most, len(server._queue))
        assert most <= server_module.MOST_QUEUED


# many messages


async def count(call: ServedCall, stream: ServedStream) -> None:
    for number in range(int(call.payload)):
        await stream.send(str(number).encode())


async def total(call: ServedCall, stream: ServedStream) -> None:
    await stream.send(str(sum([int(message) async for message in stream])).encode())


async def mirror(call: ServedCall, stream: ServedStream) -> None:
    async for message in stream:
        await stream.send(message)


STREAMS: Services = {
    "s": {"count": Streaming(count), "total": Streaming(total), "mirror": Streaming(mirror), "echo": echo}
}


async def test_a_server_answers_with_many_messages() -> None:
    async with served(STREAMS) as (client, _), client.stream("s", "count", b"1000") as stream:
        assert [int(message) async for message in stream] == list(range(1000))
        assert await stream.receive() is None


async def test_a_client_sends_many_messages() -> None:
    async with served(STREAMS) as (client, _), client.stream("s", "total", sends=True) as stream:
        for number in range(100):
            await stream.send(str(number).encode())
        await stream.end()
        assert await stream.receive() == b"4950"


async def test_both_ends_send_many_messages() -> None:
    async with served(STREAMS) as (client, _), client.stream("s", "mirror", sends=True) as stream:
        for message in (b"", b"one", b"two"):
            await stream.send(message)
            assert await stream.receive() == message
        await stream.end()
        assert await stream.receive() is None


async def test_messages_that_nobody_takes_hold_up_the_sender() -> None:
    sent = 0

    async def pour(_: ServedCall, stream: ServedStream) -> None:
        nonlocal sent
        for _number in range(100):
            await stream.send(bytes(1 << 20))
            sent += 1

    async with carriers() as (client_end, server_end), Beside() as beside:
        client = TtrpcClient(client_end)
        TtrpcServer(server_end, {"s": {"pour": Streaming(pour)}}, beside.start)
        async with client.stream("s", "pour") as stream:
            await client_end.paused.wait()
            assert sent < 100
            assert stream._incoming._reading._untaken < UNTAKEN_BYTES + (3 << 20)
            assert sum([1 async for _ in stream]) == 100


async def test_a_client_that_leaves_a_stream_can_go_on() -> None:
    async with served(STREAMS) as (client, _):
        async with client.stream("s", "mirror", sends=True) as stream:
            await stream.send(b"one")
        async with client.stream("s", "count", b"100000") as stream:
            assert await stream.receive() == b"0"
        assert await client.call("s", "echo", b"on", BOUND) == b"on"


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda client: client.call("s", "count", b"1", BOUND), Code.INVALID_ARGUMENT),
        (lambda client: read_all(client, "echo"), Code.INVALID_ARGUMENT),
        (lambda client: read_all(client, "none"), Code.UNIMPLEMENTED),
        (lambda client: read_all(client, "count"), Code.UNKNOWN),
    ],
)
async def test_a_stream_that_cannot_be_is_an_error(
    ask: Callable[[TtrpcClient], AsyncIterator[bytes]], code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, server_module.__name__)
    async with served(STREAMS) as (client, _):
        with pytest.raises(CallFailed) as failed:
            await ask(client)  # type: ignore[misc]  # any coroutine
        assert failed.value.code == code


async def read_all(client: TtrpcClient, method: str) -> list[bytes]:
    async with client.stream("s", method, b"no number") as stream:
        return [message async for message in stream]


async def test_the_peers_death_ends_a_stream_after_what_has_come() -> None:
    async with carriers() as (client_end, raw):
        client = TtrpcClient(client_end)
        raw.attach(Answers())
        async with client.stream("s", "m") as stream:
            raw.put(ttrpc.frame(1, Kind.DATA, 0, b"last"))
            raw.close()
            assert await stream.receive() == b"last"
            with pytest.raises(PeerLost):
                await stream.receive()


async def test_more_streams_than_a_server_has_places_for_are_refused() -> None:
    async with served(STREAMS) as (client, _):
        open_streams = [client.stream("s", "mirror", sends=True) for _ in range(server_module.MOST_STREAMS)]
        for stream in open_streams:
            await stream.__aenter__()
        with pytest.raises(CallFailed) as failed:
            await read_all(client, "mirror")
        assert failed.value.code == Code.RESOURCE_EXHAUSTED
        await open_streams[0].end()
        assert await open_streams[0].receive() is None
        assert await client.call("s", "echo", b"on", BOUND) == b"on"


# connections within one


async def test_two_ends_call_each_other_through_one_connection() -> None:
    numbers = (mux.PLUGIN_SERVICE, mux.RUNTIME_SERVICE)
    async with carriers() as (one, other), Beside() as beside:
        plugin, runtime = Mux(one, numbers), Mux(other, numbers)
        TtrpcServer(plugin.carrier(mux.PLUGIN_SERVICE), {"plugin": {"echo": echo}}, beside.start)
        to_runtime = TtrpcClient(plugin.carrier(mux.RUNTIME_SERVICE))
        TtrpcServer(runtime.carrier(mux.RUNTIME_SERVICE), {"runtime": {"echo": echo}}, beside.start)
        to_plugin = TtrpcClient(runtime.carrier(mux.PLUGIN_SERVICE))
        async with asyncio.TaskGroup() as group:
            for size in (0, 1, 4090, 5000, 1 << 20, ttrpc.MAX_DATA_BYTES - 100):
                for client, service in ((to_runtime, "runtime"), (to_plugin, "plugin")):
                    group.create_task(echoed(client, service, size))
        other.abort("killed")
        for client in (to_runtime, to_plugin):
            with pytest.raises(PeerLost):
                await client.call("s", "m", b"", BOUND)


async def echoed(client: TtrpcClient, service: str, size: int) -> None:
    assert await client.call(service, "echo", bytes(size), BOUND) == bytes(size)


async def test_what_is_no_multiplexed_connection_ends_it_with_the_reason() -> None:
    async with carriers() as (end, raw):
        client = TtrpcClient(Mux(end, (1,)).carrier(1))
        raw.attach(Answers())
        raw.put(b"\0\0\0\x01\xff\xff\xff\xff")
        assert "no multiplexed connection: a frame of 4294967295 bytes on connection 1" in await client.gone()


async def test_connections_that_this_end_does_not_use_are_dropped() -> None:
    async with carriers() as (end, raw), Beside() as beside:
        client = TtrpcClient(Mux(end, (2,)).carrier(2))
        answers = Answers()
        raw.attach(answers)
        call = beside.start("call", client.call("s", "m", b"", BOUND))
        raw.put(mux.frames(7, b"nobody") + mux.frames(0, b"reserved"))
        raw.put(mux.frames(2, ttrpc.frame(1, Kind.RESPONSE, 0, b"\x12\x02ok")))
        assert await call == b"ok"


async def test_a_connection_within_waits_for_its_receiver_up_to_a_bound() -> None:
    async with carriers() as (end, raw):
        both = Mux(end, (1, 2))
        client = TtrpcClient(both.carrier(1))
        raw.attach(Answers())
        for _ in range(HELD_BYTES // (1 << 20) + 1):
            raw.put(mux.frames(2, bytes(1 << 20)))
        assert f"over {HELD_BYTES} bytes on connection 2 that nobody takes" in await client.gone()
        late = TtrpcClient(both.carrier(2))
        assert late.is_gone


async def test_what_came_before_the_receiver_is_handed_over() -> None:
    async with carriers() as (end, raw), Beside() as beside:
        both = Mux(end, (1, 2))
        client, peer = TtrpcClient(both.carrier(1)), Mux(raw, (1, 2))
        early = TtrpcClient(peer.carrier(2))
        call = beside.start("call", early.call("s", "echo", b"early", BOUND))
        TtrpcServer(peer.carrier(1), {"s": {"echo": echo}}, beside.start)
        assert await client.call("s", "echo", b"behind", BOUND) == b"behind"
        TtrpcServer(both.carrier(2), {"s": {"echo": echo}}, beside.start)
        assert await call == b"early"


# messages


async def test_messages_of_protobuf_are_asked_and_answered() -> None:
    async def length(text: StringValue) -> Int32Value:
        return Int32Value(value=len(text.value))

    async def broken(_: ServedCall) -> bytes:
        return b"\xff"

    async with served({"s": {"length": typed(StringValue, length), "broken": broken}}) as (client, _):
        service = ServiceClient(client, "s")
        assert (await service.call("length", StringValue(value="four"), Int32Value, BOUND)).value == 4
        with pytest.raises(
            CallFailed, match=r"answer of s/broken is no google\.protobuf\.Int32Value"
        ) as failed:
            await service.call("broken", StringValue(value="text"), Int32Value, BOUND)
        assert failed.value.code == Code.INTERNAL
        with pytest.raises(
            CallFailed, match=r"request of s/length is no google\.protobuf\.StringValue"
        ) as failed:
            await client.call("s", "length", b"\xff", BOUND)
        assert failed.value.code == Code.INVALID_ARGUMENT
