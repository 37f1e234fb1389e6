"""Files with classes of block I/O: what they may say, and what is refused with its place."""

from __future__ import annotations

import pytest

from crib.wire.blockio_config import MAX_SIZE, DeviceParameters, decode

FILE = b"""
Classes:
  slow:
    - Weight: 50
    - Devices: ["/dev/sd[ab]", "/dev/vda"]
      ThrottleReadBps: 20M
      throttleWriteBps: 4Ki
      throttlereadiops: "1k"
      throttlewriteiops: 1.5k
  none:
"""


def test_a_file_in_the_peers_form_is_read_in_any_case_of_letters() -> None:
    assert decode(FILE) == {
        "slow": (
            DeviceParameters(weight=50),
            DeviceParameters(
                devices=("/dev/sd[ab]", "/dev/vda"),
                read_bps=20_000_000,
                write_bps=4096,
                read_iops=1000,
                write_iops=1500,
            ),
        ),
        "none": (),
    }
    assert decode(b"") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not YAML"),
        ("7", "object"),
        ("others: {}", "others"),
        ("classes: 7", "classes"),
        ("classes: {a: 7}", "classes"),
        ("classes: {a: [{colour: red}]}", r"classes.a\[0\].*colour"),
        ("classes: {a: [{}, {weight: 9}]}", r"classes.a\[1\].weight: 9 is not from 10 to 1000"),
        ("classes: {a: [{throttleReadBps: 1M}]}", "rates are of devices"),
        ("classes: {a: [{devices: [sda]}]}", "absolute"),
        ("classes: {a: [{devices: [/dev/sda], throttleReadBps: fast}]}", "'fast' is not a number"),
        ("classes: {a: [{devices: [/dev/sda], throttleReadBps: 0.5}]}", "'0.5' is not a number"),
        ("classes: {a: [{devices: [/dev/sda], throttleReadBps: 99E}]}", "'99E' is not a number"),
        (" " * (MAX_SIZE + 1), "larger"),
        ("a: " + "[" * 3000, "not YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(text.encode())
