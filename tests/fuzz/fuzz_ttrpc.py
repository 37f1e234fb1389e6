"""Any bytes as ttrpc, at either end, and as NRI's multiplexer: the same however they are cut.

Two of the targets of `targets.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from crib.wire import mux, ttrpc
from crib.wire.ttrpc_calls import Called, ClientCalls, Refused, ServerCalls, Shape

PIECE = 7


def calls(data: bytes) -> None:
    """A server that answers what it is asked, and a client that waits for three calls."""
    for make in (_server, _client):
        assert _events(make, [data]) == _events(make, _pieces(data))


def frames(data: bytes) -> None:
    """Connections within one."""
    assert _connections([data]) == _connections(_pieces(data))


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


def _server() -> ServerCalls:
    return ServerCalls()


def _client() -> ClientCalls:
    client = ClientCalls()
    for shape in Shape:
        client.open(ttrpc.Request("s", "m"), shape)
    return client


def _events(make: Callable[[], ServerCalls | ClientCalls], pieces: list[bytes]) -> list[object]:
    end, found = make(), list[object]()
    with suppress(ttrpc.Malformed):
        for piece in pieces:
            end.feed(piece)
            while (event := end.next_event()) is not None:
                found.append(event)
                if isinstance(event, Called) and isinstance(end, ServerCalls) and event.request.method:
                    end.respond(event.stream, ttrpc.Response(payload=event.request.payload))
                if isinstance(event, Refused):
                    assert ttrpc.decode_response(event.reply[ttrpc.HEADER_BYTES :]).code
    return found


def _connections(pieces: list[bytes]) -> dict[int, bytes]:
    reader, found = mux.MuxReader(), dict[int, bytes]()
    with suppress(mux.Malformed):
        for piece in pieces:
            for connection, part in reader.receive(piece):
                assert part
                found[connection] = found.get(connection, b"") + part
    return found
