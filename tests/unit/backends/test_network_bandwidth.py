"""Limits of bandwidth: bursts, queues and names, without a kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.backends.network.bridge import bandwidth
from crib.host import traffic
from crib.host.links import check_interface_name
from crib.host.netlink import MalformedMessage


@given(st.integers(1_000, 10**15), st.integers(68, 65_535))
def test_a_bucket_holds_some_packets_and_fits_the_kernels_numbers(rate: int, mtu: int) -> None:
    made = bandwidth.bucket(rate, mtu)
    assert made.rate == rate // 8
    assert 2 * mtu <= made.burst < made.limit <= traffic.U32_MAX
    assert made.limit - made.burst >= 10 * mtu


@pytest.mark.parametrize("rate", [1_000_000, 10_000_000, 100_000_000, 1_000_000_000])
def test_a_burst_is_a_small_part_of_what_a_second_brings(rate: int) -> None:
    assert bandwidth.bucket(rate, 1500).burst * 8 < rate * 0.03


def test_a_shaper_is_named_for_its_host_interface_and_fits_the_kernel() -> None:
    assert bandwidth.shaper_name("crib0123456789a") == "Crib0123456789a"
    check_interface_name(bandwidth.shaper_name("crib0123456789a"))


@pytest.mark.parametrize("name", ["", "Crib0", "0crib", "\N{LATIN SMALL LETTER SHARP S}x"])
def test_a_host_interface_whose_shaper_could_not_be_told_from_it_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="small letter"):
        bandwidth.shaper_name(name)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_rate_or_are_refused(options: bytes) -> None:
    try:
        assert traffic.parse_rate(options) >= 0
    except MalformedMessage:
        pass
