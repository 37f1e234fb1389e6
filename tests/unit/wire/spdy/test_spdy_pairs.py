"""Two ends and any order of calls: what one sends is what the other gets, wherever the bytes are cut."""

from __future__ import annotations

import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crib.wire.spdy import (
    Connection,
    DataReceived,
    Event,
    Headers,
    Limits,
    SessionFailed,
    StreamOpened,
    StreamReplied,
    StreamReset,
    Windows,
    frames,
)
from tests.unit.wire.spdy.spdy_lab import STDIN, Attacker, Pair, data_of, joined

HEADERS = st.lists(
    st.tuples(
        st.sampled_from(("streamtype", "port", "requestid")), st.sampled_from(("error", "data", "80", ""))
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(tuple)


SIDES = st.sampled_from((0, 1))


class End:
    """One end with what it sent, and what the events said."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.wire = b""
        self.sending: set[int] = set()
        self.waiting: set[int] = set()
        self.opened: dict[int, Headers] = {}
        self.sent: dict[int, bytes] = defaultdict(bytes)
        self.got: dict[int, bytes] = defaultdict(bytes)
        self.seen: dict[int, Headers] = {}
        self.unread: dict[int, int] = defaultdict(int)
        self.finished: set[int] = set()
        self.ended: set[int] = set()
        self.reset: set[int] = set()

    def see(self, event: Event) -> None:
        assert not isinstance(event, SessionFailed), event
        if isinstance(event, StreamOpened):
            self.seen[event.stream_id] = event.headers
            self.waiting.add(event.stream_id)
        if isinstance(event, StreamReplied):
            assert event.stream_id in self.opened
        if isinstance(event, DataReceived):
            assert event.stream_id not in self.ended
            self.got[event.stream_id] += event.data
            self.unread[event.stream_id] += len(event.data)
        if isinstance(event, StreamOpened | StreamReplied | DataReceived) and event.fin:
            self.ended.add(event.stream_id)
        if isinstance(event, StreamReset):
            assert not event.reason
            self.reset.add(event.stream_id)
            self.sending.discard(event.stream_id)
            self.waiting.discard(event.stream_id)


class Session(RuleBasedStateMachine):
    """All calls of both ends, and bytes carried in pieces of any size."""

    @initialize(windows=st.sampled_from(Windows))
    def begin(self, windows: Windows) -> None:
        limits = Limits(windows=windows)
        self.ends = End(Connection("client", limits)), End(Connection("server", limits))
        self.windows = windows

    def pick(self, number: int, ids: set[int]) -> int | None:
        return sorted(ids)[number % len(ids)] if ids else None

    @rule(side=SIDES, headers=HEADERS, fin=st.booleans())
    def open(self, side: int, headers: Headers, fin: bool) -> None:
        end = self.ends[side]
        stream_id = end.connection.open_stream(headers, fin=fin)
        end.opened[stream_id] = headers
        (end.finished if fin else end.sending).add(stream_id)

    @rule(side=SIDES, number=st.integers(0, 9), fin=st.booleans())
    def reply(self, side: int, number: int, fin: bool) -> None:
        end = self.ends[side]
        if (stream_id := self.pick(number, end.waiting)) is not None:
            end.connection.reply(stream_id, fin=fin)
            end.waiting.remove(stream_id)
            (end.finished if fin else end.sending).add(stream_id)

    @rule(side=SIDES, number=st.integers(0, 9), size=st.integers(0, 40_000), fin=st.booleans())
    def send(self, side: int, number: int, size: int, fin: bool) -> None:
        end = self.ends[side]
        if (stream_id := self.pick(number, end.sending)) is not None:
            data = bytes([size % 256]) * min(size, end.connection.window(stream_id))
            end.connection.send_data(stream_id, data, fin=fin)
            end.sent[stream_id] += data
            if fin:
                end.sending.remove(stream_id)
                end.finished.add(stream_id)

    @rule(side=SIDES, number=st.integers(0, 9))
    def reset(self, side: int, number: int) -> None:
        end = self.ends[side]
        if (stream_id := self.pick(number, end.sending | end.waiting)) is not None:
            end.connection.reset(stream_id)
            end.sending.discard(stream_id)
            end.waiting.discard(stream_id)
            end.reset.add(stream_id)

    @rule(side=SIDES, number=st.integers(0, 9))
    def acknowledge(self, side: int, number: int) -> None:
        end = self.ends[side]
        waiting = {stream_id for stream_id, size in end.unread.items() if size and stream_id not in end.reset}
        if (stream_id := self.pick(number, waiting)) is not None:
            end.connection.acknowledge(stream_id, end.unread[stream_id])
            end.unread[stream_id] = 0

    @rule(side=SIDES)
    def ping(self, side: int) -> None:
        if len(self.ends[side].connection._state.pings) < 16:
            self.ends[side].connection.ping()

    @rule(side=SIDES, size=st.integers(1, 100_000))
    def carry(self, side: int, size: int) -> None:
        sender, receiver = self.ends[side], self.ends[1 - side]
        sender.wire += joined(sender.connection)
        piece, sender.wire = sender.wire[:size], sender.wire[size:]
        for event in receiver.connection.receive(piece):
            receiver.see(event)

    @invariant()
    def what_came_is_the_beginning_of_what_was_sent(self) -> None:
        for sender, receiver in (self.ends, self.ends[::-1]):
            for stream_id, data in receiver.got.items():
                assert sender.sent[stream_id].startswith(data)

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        for _ in range(4):
            for side in (0, 1):
                self.carry(side, 1 << 30)
        for sender, receiver in (self.ends, self.ends[::-1]):
            assert not sender.connection.is_over
            assert receiver.seen == {
                stream_id: tuple((name, value) for name, value in headers)
                for stream_id, headers in sender.opened.items()
            }
            for stream_id in (set(sender.sent) | sender.finished) - sender.reset - receiver.reset:
                assert receiver.got[stream_id] == sender.sent[stream_id]
                assert (stream_id in receiver.ended) == (stream_id in sender.finished)


TestSession = Session.TestCase


@given(st.integers(1, 40), st.binary(max_size=300))
def test_pieces_of_any_size_give_the_same(cut: int, data: bytes) -> None:
    pair = Pair(Limits(windows=Windows.ALWAYS))
    stream_id = pair.client.open_stream((("streamtype", "stdin"), ("port", "80")))
    (opened,) = [event for event in pair.run(cut)[1] if isinstance(event, StreamOpened)]
    assert opened.headers == (("streamtype", "stdin"), ("port", "80"))
    pair.server.reply(stream_id, (("a", "b"),))
    pair.server.send_data(stream_id, data, fin=True)
    pair.client.ping()
    at_client, _ = pair.run(cut)
    assert data_of(at_client, stream_id) == data
    assert at_client[0] == StreamReplied(stream_id, (("a", "b"),), False)
    assert [event.fin for event in at_client if isinstance(event, DataReceived)][-1]


@pytest.mark.nightly
@pytest.mark.parametrize("what", ["data", "headers"])
def test_bytes_that_come_one_by_one_cost_the_same_each(what: str) -> None:
    """Twice as many bytes are twice the work: bytes copied so far are not copied again."""

    def seconds(size: int) -> float:
        attacker = Attacker(Limits(max_header_block=1 << 20))
        stream_id = attacker.open()
        if what == "data":
            session = frames.data_header(stream_id, size, False) + bytes(size)
        else:
            session = frames.syn_stream(3, bytes(size))[:-1]  # a block that never is whole
        started = time.process_time()
        for at in range(len(session)):
            attacker.victim.receive(session[at : at + 1])
        return time.process_time() - started

    seconds(1000)
    small, large = seconds(10_000), seconds(80_000)
    assert large < 8 * small * 4  # 64 times as long when each byte copied those before it


def test_many_streams_at_once_keep_apart() -> None:
    pair = Pair()
    ids = [pair.client.open_stream(STDIN) for _ in range(200)]
    pair.run()
    for stream_id in ids:
        pair.server.reply(stream_id)
        pair.server.send_data(stream_id, stream_id.to_bytes(4, "big"), fin=True)
    at_client, _ = pair.run(1000)
    assert [data_of(at_client, stream_id) for stream_id in ids] == [
        number.to_bytes(4, "big") for number in ids
    ]
