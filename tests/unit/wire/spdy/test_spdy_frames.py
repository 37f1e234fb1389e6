from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crib.wire.spdy import (
    Connection,
    DataReceived,
    GoAwayReceived,
    Limits,
    PingReceived,
    SettingsReceived,
    StreamOpened,
    StreamReplied,
    StreamReset,
    WindowUpdated,
    frames,
)
from crib.wire.spdy.errors import SessionFault
from crib.wire.spdy.frames import FrameType, MalformedFrame
from crib.wire.spdy.reader import ControlFrame, DataPart, FrameReader
from tests.unit.wire.spdy.spdy_lab import joined

GOLDEN = {
    name: bytes.fromhex("".join(parts))
    for name, *parts in map(
        str.split,
        (Path(__file__).parents[3] / "golden" / "spdy" / "frames.txt").read_text("ascii").splitlines(),
    )
}


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("RST_STREAM", frames.rst_stream(1, frames.ResetStatus.CANCEL)),
        ("SETTINGS", frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 65536})),
        ("PING", frames.ping(1)),
        ("GOAWAY", frames.goaway(1, frames.GoAwayStatus.INTERNAL_ERROR)),
        ("WINDOW_UPDATE", frames.window_update(1, 32768)),
        ("DATA", frames.data_header(1, 3, False) + b"abc"),
        ("DATA_FIN", frames.data_header(1, 0, True)),
    ],
)
def test_frames_are_built_as_the_draft_has_them(name: str, built: bytes) -> None:
    assert built == GOLDEN[name]


def test_a_session_by_hand_is_understood() -> None:
    server = Connection("server", Limits())
    order = ("SYN_STREAM", "DATA", "SETTINGS", "WINDOW_UPDATE", "PING", "DATA_FIN", "RST_STREAM", "GOAWAY")
    assert server.receive(b"".join(GOLDEN[name] for name in order)) == [
        StreamOpened(1, (("streamtype", "stdout"), ("streamtype", "extra")), False),
        DataReceived(1, b"abc", False),
        SettingsReceived({7: 65536}),
        WindowUpdated(1),
        PingReceived(1),
        DataReceived(1, b"", True),
        StreamReset(1, 5),
        GoAwayReceived(1, 2),
    ]
    assert joined(server) == GOLDEN["PING"]


def test_a_reply_by_hand_is_understood() -> None:
    client = Connection("client", Limits())
    stream_id = client.open_stream((("streamtype", "stdin"),))
    assert client.receive(GOLDEN["SYN_REPLY"]) == [StreamReplied(stream_id, (), True)]


@pytest.mark.parametrize("kind", [FrameType.SYN_STREAM, FrameType.SYN_REPLY, FrameType.HEADERS])
def test_header_frames_come_back_as_they_were(kind: FrameType) -> None:
    build = {
        FrameType.SYN_STREAM: frames.syn_stream,
        FrameType.SYN_REPLY: frames.syn_reply,
        FrameType.HEADERS: frames.headers,
    }
    (frame,) = FrameReader(Limits()).read(build[kind](frames.MAX_ID, b"block", frames.FIN))
    assert isinstance(frame, ControlFrame)
    assert (frame.kind, frame.flags) == (kind, frames.FIN)
    read = frames.read_syn_stream if kind is FrameType.SYN_STREAM else frames.read_headers
    assert read(frame.body) == (frames.MAX_ID, b"block")


def test_the_first_of_equal_settings_counts_and_flags_are_no_part_of_the_id() -> None:
    body = (2).to_bytes(4, "big") + bytes.fromhex("01000004 00000007") + bytes.fromhex("00000004 00000009")
    assert frames.read_settings(body) == {4: 7}


@pytest.mark.parametrize("read", [frames.read_syn_stream, frames.read_headers, frames.read_pair])
@pytest.mark.parametrize("body", [b"", b"abc"])
def test_short_bodies_are_errors(read: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(MalformedFrame):
        read(body)


@pytest.mark.parametrize("body", [b"", b"\0\0\0\1", b"\0\0\0\0\0", b"\xff\xff\xff\xff" + bytes(8)])
def test_settings_have_as_many_entries_as_they_say(body: bytes) -> None:
    with pytest.raises(MalformedFrame):
        frames.read_settings(body)


@pytest.mark.parametrize("body", [b"", b"\0\0\0\1\0"])
def test_pings_have_four_bytes(body: bytes) -> None:
    with pytest.raises(MalformedFrame):
        frames.read_ping(body)


@pytest.mark.parametrize("kind", [5, 10, 11, 0xFFFF])
def test_frames_of_other_types_are_skipped_without_holding_them(kind: int) -> None:
    reader = FrameReader(Limits())
    header = (0x80030000 | kind).to_bytes(4, "big") + frames.MAX_LENGTH.to_bytes(4, "big")
    rest = frames.MAX_LENGTH
    assert list(reader.read(header)) == []
    chunk = bytes(1 << 20)
    while rest:
        assert list(reader.read(chunk[: min(rest, len(chunk))])) == []
        rest -= min(rest, len(chunk))
        assert not reader._held
    assert list(reader.read(GOLDEN["DATA"])) == [DataPart(1, b"abc", True, False)]


def test_another_version_ends_the_session() -> None:
    with pytest.raises(SessionFault, match="version 2"):
        list(FrameReader(Limits()).read(b"\x80\x02" + GOLDEN["PING"][2:]))


def test_any_buffer_is_read() -> None:
    for data in (GOLDEN["DATA"], bytearray(GOLDEN["DATA"]), memoryview(GOLDEN["DATA"])):
        assert list(FrameReader(Limits()).read(data)) == [DataPart(1, b"abc", True, False)]
