"""Frames of HTTP/2, in whatever pieces they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.http2 import frames
from crib.wire.http2.frames import EndReason, Frame, FrameReader, Http2Error


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 60))
def test_frames_are_the_same_however_they_are_cut(contents: list[bytes], step: int) -> None:
    sent = frames.PREFACE + b"".join(frames.frame(frames.DATA, 1, 7, content) for content in contents)
    reader = FrameReader()
    found = [one for at in range(0, len(sent), step) for one in reader.read(sent[at : at + step])]
    assert found == [Frame(frames.DATA, 1, 7, content) for content in contents]


def test_who_begins_otherwise_is_no_client_of_http2() -> None:
    with pytest.raises(Http2Error):
        list(FrameReader().read(b"GET / HTTP/1.1\r\n"))


def test_a_frame_that_is_too_large_is_refused_before_it_is_here() -> None:
    with pytest.raises(Http2Error) as caught:
        list(FrameReader().read(frames.PREFACE + frames.head(frames.DATA, 0, 1, frames.FRAME_BYTES + 1)))
    assert caught.value.fault is EndReason.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("found", "content"),
    [
        (Frame(frames.DATA, frames.PADDED, 1, b"\x02abcde"), b"abc"),
        (Frame(frames.HEADERS, frames.HAS_PRIORITY, 1, b"12345abc"), b"abc"),
        (Frame(frames.HEADERS, frames.PADDED | frames.HAS_PRIORITY, 1, b"\x0112345abcd"), b"abc"),
        (Frame(frames.DATA, 0, 1, b"abc"), b"abc"),
    ],
)
def test_padding_and_priority_are_taken_off(found: Frame, content: bytes) -> None:
    assert frames.without_padding(found) == content


@pytest.mark.parametrize(
    "found",
    [
        Frame(frames.DATA, frames.PADDED, 1, b""),
        Frame(frames.DATA, frames.PADDED, 1, b"\x03ab"),
        Frame(frames.HEADERS, frames.HAS_PRIORITY, 1, b"1234"),
    ],
)
def test_more_padding_than_content_is_refused(found: Frame) -> None:
    with pytest.raises(Http2Error):
        frames.without_padding(found)


def test_settings_are_read_as_they_were_written() -> None:
    sent = frames.settings({frames.MAX_FRAME_SIZE: 1 << 20, frames.INITIAL_WINDOW_SIZE: 5})
    assert dict(frames.read_settings(sent[frames.HEAD_BYTES :])) == {5: 1 << 20, 4: 5}
    with pytest.raises(Http2Error):
        list(frames.read_settings(b"12345"))
