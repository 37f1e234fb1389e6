"""The limits of one SPDY session. A peer needs a socket for each session that it opens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from crib.wire.spdy.frames import MAX_LENGTH


class Windows(Enum):
    """When windows are kept.

    The peers of a kubelet's world (kubectl, the API server, crictl) know no flow control: they send without a
    window, and never send SETTINGS or WINDOW_UPDATE. A WINDOW_UPDATE even harms them: its place in their
    queues is behind the data of some stream, so that, when that one is not read, all streams wait.
    """

    ON_SIGN = 1
    """No windows until the peer sends SETTINGS or WINDOW_UPDATE; from then on what it may get is obeyed, and
    what it sent is granted again. Sending too much is never an error: the reader of the socket pauses."""
    ALWAYS = 2
    """As in the draft from the first byte, announced by SETTINGS. Data beyond a window is an error."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted; beyond it a stream is reset, or the session fails. Sizes are bytes."""

    max_data_frame: int = MAX_LENGTH
    """The format's own maximum: peers write a whole buffer as one frame, and a part of a frame is passed on
    as it comes, so no memory hangs on this number."""
    max_header_block: int = 8 << 10
    """One compressed header block. Those of exec and port-forward have some 60 bytes."""
    max_header_bytes: int = 16 << 10
    """One header block after inflating, which stops there."""
    max_headers: int = 64
    """Names in a header block; exec has one, port-forward three."""
    max_header_name: int = 256
    max_header_value: int = 8 << 10
    max_header_bytes_at_once: int = 1 << 20
    """Inflated header blocks of one `receive`: deflate makes a thousand bytes of one, and streams that are
    opened and reset at once are not held back by the number of open ones."""
    max_open_streams: int = 1024
    """Streams of the peer at a time; those count whose data the application has not acknowledged.
    Port-forward has two for each connection."""
    max_streams: int = 1 << 20
    """Streams of the peer in all: six days of port-forward with a connection every second."""
    max_settings: int = 32
    """Entries of a SETTINGS frame; the draft defines eight."""
    max_pings: int = 16
    """Pings of ours without an answer: a caller with that many has a dead peer."""
    max_control_queued: int = 64 << 10
    """Control frames that wait for `data_to_send`, counted when the peer sends another: more than what it
    caused by one read of a socket means that it asks and does not read (pings, resets, replies)."""
    windows: Windows = Windows.ON_SIGN
