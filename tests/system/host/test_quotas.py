"""Quotas of directories, on file systems that keep to them: many kernels have none (CONFIG_QFMT_V2)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import quotas
from crib.host.quotas import QuotaUse
from tests.disks import fill, mounted_disk, too_much

pytestmark = pytest.mark.root

LIMIT = 4 << 20


@pytest.fixture(params=["ext4 with quotas", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path, request.param, "prjquota") as mounted:
        yield mounted


def directory(disk: Path, name: str = "volume") -> str:
    path = disk / name
    path.mkdir()
    path.chmod(0o777)
    return str(path)


def test_who_writes_more_than_the_limit_is_told_so_and_others_are_not(disk: Path) -> None:
    volume, other = directory(disk), directory(disk, "other")
    assert quotas.is_offered(volume)
    quotas.set_limit(volume, LIMIT)
    os.mkdir(f"{volume}/below", 0o777)
    os.chmod(f"{volume}/below", 0o777)
    assert too_much(fill(f"{volume}/below/file", 2 * LIMIT))
    assert fill(f"{other}/file", 2 * LIMIT) == ""
    used = quotas.usage(volume)
    assert used is not None
    assert LIMIT - (1 << 20) <= used.bytes <= LIMIT
    assert used.max_bytes == LIMIT
    assert used.inodes >= 3
    assert quotas.usage(other) is None


def test_a_limit_can_be_changed_and_taken_away(disk: Path) -> None:
    volume = directory(disk)
    quotas.set_limit(volume, LIMIT)
    assert too_much(fill(f"{volume}/file", 2 * LIMIT))
    quotas.set_limit(volume, 4 * LIMIT)
    assert fill(f"{volume}/file", 2 * LIMIT) == ""
    quotas.set_limit(volume, 0)
    used = quotas.usage(volume)
    assert used is not None
    assert used.max_bytes == 0


def test_inodes_are_limited_too(disk: Path) -> None:
    volume = directory(disk)
    quotas.set_limit(volume, 0, max_inodes=5)
    results = [fill(f"{volume}/{number}", 65536) for number in range(6)]
    assert results[0] == ""
    assert too_much(results[-1])


def test_directories_get_projects_of_their_own_and_give_them_back(disk: Path) -> None:
    first, second = directory(disk, "first"), directory(disk, "second")
    for path in (first, second):
        quotas.set_limit(path, LIMIT)
    assert fill(f"{first}/file", 1 << 20) == ""
    used = quotas.usage(second)
    assert used is not None
    assert used.bytes < 1 << 20
    for path in (first, second):
        quotas.clear(path)
        quotas.clear(path)
    assert quotas.usage(second) == QuotaUse(used.bytes, used.inodes, 0, 0)


def test_only_an_empty_directory_can_be_given_a_limit_for_the_first_time(disk: Path) -> None:
    volume = directory(disk)
    assert fill(f"{volume}/file", 65536) == ""
    with pytest.raises(OSError) as caught:
        quotas.set_limit(volume, LIMIT)
    assert caught.value.errno == errno.ENOTEMPTY


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_where_there_are_no_quotas_a_limit_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    if kind == "tmpfs":
        check_refusal("/dev/shm")
        return
    with mounted_disk(tmp_path, kind) as disk:
        check_refusal(str(disk))
        assert quotas.usage(str(disk)) is None
        quotas.clear(str(disk))


def check_refusal(path: str) -> None:
    assert not quotas.is_offered(path)
    with pytest.raises(OSError, match="no project quotas") as caught:
        quotas.set_limit(path, LIMIT)
    assert caught.value.errno == errno.EOPNOTSUPP
