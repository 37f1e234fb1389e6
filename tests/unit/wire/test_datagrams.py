from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.wire.portforward import MAX_DATAGRAM, DatagramReader, encode_datagram


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 200)))
def test_datagrams_come_whole_however_the_bytes_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(encode_datagram, payloads))
    bounds = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    reader = DatagramReader()
    found: list[bytes] = []
    for start, end in itertools.pairwise(bounds):
        found += reader.receive(data[start:end])
    assert found == payloads


def test_what_udp_does_not_carry_is_refused_and_what_came_before_is_not_lost() -> None:
    longest = b"x" * MAX_DATAGRAM
    assert list(DatagramReader().receive(encode_datagram(longest))) == [longest]
    with pytest.raises(ValueError, match="longer"):
        encode_datagram(longest + b"x")
    found: list[bytes] = []
    with pytest.raises(ValueError, match="longer"):
        found.extend(DatagramReader().receive(encode_datagram(b"one") + b"\xff\xff"))
    reader = DatagramReader().receive(encode_datagram(b"one") + b"\xff\xff")
    assert next(reader) == b"one"
