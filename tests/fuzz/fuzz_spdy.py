"""Any bytes against a SPDY session: nothing is raised, little is kept, and an end stays an end.

One of the targets of `targets.py`; the suite also runs it with sequences of whole frames from hypothesis
(tests/unit/wire/spdy/test_spdy_fuzz.py).
"""

from __future__ import annotations

from contextlib import suppress

from crib.wire.spdy import Connection, DataReceived, Limits, SessionFailed, SpdyError, StreamOpened, Windows

LIMITS = Limits(max_header_bytes=4096, max_open_streams=16, max_control_queued=4096)
DRAFT = Limits(max_header_bytes=4096, max_open_streams=16, max_control_queued=4096, windows=Windows.ALWAYS)


def one_input(data: bytes) -> None:
    """The first byte chooses role, limits and how the rest is cut; the caller behaves as a server would."""
    if not data:
        return
    choice, rest = data[0], data[1:]
    session = Connection("server" if choice & 1 else "client", DRAFT if choice & 2 else LIMITS)
    if not choice & 1:
        session.open_stream((("streamtype", "stdin"),))
    size = (choice >> 2) + 1 if choice & 4 else len(rest) or 1
    failed = False
    for at in range(0, len(rest), size):
        for event in session.receive(rest[at : at + size]):
            assert not failed, "an event after the last one"
            failed = isinstance(event, SessionFailed)
            with suppress(SpdyError):
                answer(session, event)
        assert session.is_over == failed
        assert session.open_streams <= LIMITS.max_open_streams + 1
        if choice & 8:
            session.data_to_send()
    session.data_to_send()
    assert session.queued == 0


def answer(session: Connection, event: object) -> None:
    """What the program above does: accept streams, read data, give it back."""
    if isinstance(event, StreamOpened):
        session.reply(event.stream_id)
        session.send_data(event.stream_id, b"hello", fin=event.fin)
    elif isinstance(event, DataReceived):
        session.acknowledge(event.stream_id, len(event.data))
        session.send_data(event.stream_id, event.data[: session.window(event.stream_id)], fin=event.fin)
