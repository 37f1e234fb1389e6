"""Two ends of a session wired together in memory, and a peer that sends what it likes."""

from __future__ import annotations

from collections.abc import Iterable

from crib.wire.spdy import (
    Connection,
    DataReceived,
    Event,
    Headers,
    Limits,
    SessionFailed,
    StreamReset,
    frames,
)
from crib.wire.spdy.headers import HeaderDeflater, pack_headers

DEFAULTS = Limits()
STDIN: Headers = (("streamtype", "stdin"),)


class Pair:
    """A client and a server; `run` carries bytes both ways until none are left."""

    def __init__(self, limits: Limits = DEFAULTS, client_limits: Limits | None = None) -> None:
        self.client = Connection("client", client_limits or limits)
        self.server = Connection("server", limits)

    def run(self, cut: int = 0) -> tuple[list[Event], list[Event]]:
        """What the client and the server saw. `cut` bytes come at a time; 0 is all."""
        at_client: list[Event] = []
        at_server: list[Event] = []
        while True:
            up, down = joined(self.client), joined(self.server)
            if not (up or down):
                return at_client, at_server
            for piece in pieces(up, cut):
                at_server += self.server.receive(piece)
            for piece in pieces(down, cut):
                at_client += self.client.receive(piece)

    def open(self, headers: Headers = STDIN) -> int:
        """A stream of the client's that the server accepted."""
        stream_id = self.client.open_stream(headers)
        self.run()
        self.server.reply(stream_id)
        self.run()
        return stream_id


class Attacker:
    """A client or server of nothing but bytes, against a real end; an even first id makes it a server."""

    def __init__(self, limits: Limits = DEFAULTS, first_id: int = 1) -> None:
        self.victim = Connection("server" if first_id % 2 else "client", limits)
        self.next_id = first_id
        self._deflater = HeaderDeflater()

    def block(self, headers: Headers = STDIN) -> bytes:
        return self._deflater.deflate(pack_headers(headers))

    def raw_block(self, plain: bytes) -> bytes:
        return self._deflater.deflate(plain)

    def syn(self, headers: Headers = STDIN, flags: int = 0) -> bytes:
        """The SYN_STREAM of the next stream."""
        frame = frames.syn_stream(self.next_id, self.block(headers), flags)
        self.next_id += 2
        return frame

    def open(self) -> int:
        """A stream that the victim has accepted."""
        stream_id = self.next_id
        self.victim.receive(self.syn())
        self.victim.reply(stream_id)
        self.victim.data_to_send()
        return stream_id

    def fails(self, data: bytes) -> str:
        """The session has to fail by these bytes: why it did."""
        *_, last = self.victim.receive(data)
        assert isinstance(last, SessionFailed), last
        assert self.victim.is_over
        assert joined(self.victim)[-16:-8] == frames.goaway(0, 0)[:8]
        return last.reason

    def resets(self, data: bytes) -> tuple[int, str]:
        """A stream that the victim knows has to be reset by these bytes: the status and why."""
        self.victim.data_to_send()
        *_, last = self.victim.receive(data)
        assert isinstance(last, StreamReset), last
        assert joined(self.victim).endswith(frames.rst_stream(last.stream_id, last.status))
        assert not self.victim.is_over
        return last.status, last.reason

    def refuses(self, data: bytes) -> int:
        """A stream that the victim does not know has to be reset by these bytes: the status."""
        self.victim.data_to_send()
        assert self.victim.receive(data) == []
        answer = joined(self.victim)
        assert answer[:8] == frames.rst_stream(0, 0)[:8]
        assert len(answer) == 16
        return int.from_bytes(answer[12:], "big")


def joined(end: Connection) -> bytes:
    """All bytes that wait to be sent."""
    return b"".join(end.data_to_send())


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    if not data:
        return ()
    return (data[at : at + (size or len(data))] for at in range(0, len(data), size or len(data)))


def data_of(events: Iterable[Event], stream_id: int) -> bytes:
    """What a stream brought."""
    return b"".join(
        event.data for event in events if isinstance(event, DataReceived) and event.stream_id == stream_id
    )
