"""Bytes of processes, as Docker's Engine sends them."""

from __future__ import annotations

import struct

import pytest

from crib.wire.crilog import encode_time
from crib.wire.docker_streams import MAX_FRAME, MAX_MESSAGE, Frames, LogMessage, LogMessages


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxI", kind, len(payload)) + payload


def message(at: int, content: bytes) -> bytes:
    return encode_time(at) + b" " + content


WHOLE = frame(1, b"out\n") + frame(2, b"err") + frame(1, b"") + frame(0, b"in")


@pytest.mark.parametrize("size", [1, 3, 8, 11, len(WHOLE)])
def test_frames_come_whole_however_they_were_cut(size: int) -> None:
    frames = Frames(terminal=False)
    found = [piece for at in range(0, len(WHOLE), size) for piece in frames.receive(WHOLE[at : at + size])]
    assert found == [("stdout", b"out\n"), ("stderr", b"err"), ("stdout", b"in")]


def test_a_terminal_has_no_frames() -> None:
    frames = Frames(terminal=True)
    assert list(frames.receive(WHOLE)) == [("stdout", WHOLE)]
    assert list(frames.receive(b"")) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (struct.pack(">BxxxI", 1, MAX_FRAME + 1), "longer"),
        (frame(9, b"x"), "unknown stream 9"),
        (frame(3, b"disk full"), "disk full"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(Frames(terminal=False).receive(data))


def test_each_frame_of_a_log_is_a_message_with_its_time() -> None:
    data = frame(1, message(5, b"a b\n")) + frame(2, message(1_700_000_000_123_456_789, b"part"))
    found = list(LogMessages(terminal=False).receive(data))
    assert found == [
        LogMessage(5, "stdout", b"a b\n"),
        LogMessage(1_700_000_000_123_456_789, "stderr", b"part"),
    ]


@pytest.mark.parametrize("size", [1, 7, 40, 1 << 20])
def test_messages_of_a_terminal_end_with_a_newline_or_their_length(size: int) -> None:
    long = b"x" * MAX_MESSAGE
    contents = [b"one\r\n", b"\n", long, long, b"rest of it\r\n", b"2026-01-01T00:00:00Z no time\n", b"last"]
    data = b"".join(message(n, content) for n, content in enumerate(contents))
    messages = LogMessages(terminal=True)
    found = [one for at in range(0, len(data), size) for one in messages.receive(data[at : at + size])]
    found += messages.last()
    assert found == [LogMessage(n, "stdout", content) for n, content in enumerate(contents)]


def test_a_log_without_times_is_refused() -> None:
    with pytest.raises(ValueError, match="time"):
        list(LogMessages(terminal=True).receive(b"x" * 100))
    with pytest.raises(ValueError, match="time"):
        list(LogMessages(terminal=False).receive(frame(1, b"no time here")))
