"""The node's pod ranges, kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from crib.backends.network.pod_ranges import PodRanges
from crib.model.errors import Broken, InvalidRequest


async def test_what_was_told_is_there_after_a_restart_until_something_else_is_told(tmp_path: Path) -> None:
    directory = str(tmp_path / "network")
    assert PodRanges(directory).ranges == ()
    ranges = PodRanges(directory)
    assert await ranges.remember(" 10.1.0.5/24, fd00::/64") == ("10.1.0.0/24", "fd00::/64")
    assert PodRanges(directory).ranges == ranges.ranges == ("10.1.0.0/24", "fd00::/64")
    assert await ranges.remember("") == ()
    assert PodRanges(directory).ranges == ranges.ranges == ("10.1.0.0/24", "fd00::/64")
    await ranges.remember("10.2.0.0/24")
    assert PodRanges(directory).ranges == ("10.2.0.0/24",)


async def test_nonsense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    ranges = PodRanges(str(tmp_path))
    await ranges.remember("10.2.0.0/24")
    with pytest.raises(InvalidRequest) as told:
        await ranges.remember("10.3.0.0/24,nonsense")
    assert told.value.field == "pod_cidr"
    assert ranges.ranges == ("10.2.0.0/24",)


@pytest.mark.parametrize("content", [b"nonsense", b"\xff"])
def test_a_file_that_makes_no_sense_counts_as_none_and_is_named(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pod-cidr"
    path.write_bytes(content)
    assert PodRanges(str(tmp_path)).ranges == ()
    assert str(path) in caplog.text


async def test_what_cannot_be_kept_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ranges = PodRanges(str(tmp_path / "file"))
    with pytest.raises(Broken, match="keep the node's pod range"):
        await ranges.remember("10.2.0.0/24")
    assert ranges.ranges == ()
