"""Lines in files of bounded size and number."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crib.observe.rotated_file import RotatedFile


@contextmanager
def opened(path: Path, size_max: int = 100, files: int = 3) -> Iterator[RotatedFile]:
    file = RotatedFile(str(path), size_max, files)
    file.open()
    try:
        yield file
    finally:
        file.close()


def lines(*numbers: int) -> list[bytes]:
    """Each of ten bytes."""
    return [f"line {number:04}\n".encode() for number in numbers]


def test_it_is_for_root_only_also_when_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with opened(path) as file:
        file.append(lines(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with opened(path) as file:
        file.append(lines(2))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"".join(lines(1, 2))


def test_a_full_file_is_set_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path, files=3) as file:
        for first in range(0, 45, 5):  # 10 lines fill a file
            file.append(lines(*range(first, first + 5)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert path.read_bytes() == b"".join(lines(*range(40, 45)))
    assert Path(f"{path}.1").read_bytes() == b"".join(lines(*range(30, 40)))
    assert Path(f"{path}.2").read_bytes() == b"".join(lines(*range(20, 30)))
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()} == {0o600}


def test_one_batch_may_fill_several_files_and_a_long_line_has_one_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path, files=9) as file:
        file.append([*lines(*range(25)), b"x" * 500 + b"\n", *lines(99)])
    sizes = [Path(f"{path}.{number}").stat().st_size for number in (4, 3, 2, 1)]
    assert [*sizes, path.stat().st_size] == [100, 100, 50, 501, 10]


def test_with_fewer_files_the_older_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path, files=5) as file:
        file.append(lines(*range(50)))
    with opened(path, files=2) as file:
        file.append(lines(50))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1"]
    with opened(path, files=1) as file:
        file.append(lines(*range(60, 70)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


def test_a_line_that_was_cut_off_gets_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"time": "20')
    with opened(path) as file:
        file.append(lines(1))
    assert path.read_bytes() == b'{"time": "20\n' + lines(1)[0]


def test_what_somebody_else_sets_aside_is_left_to_him(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as file:
        file.append(lines(1))
        path.rename(tmp_path / "mine")
        file.append(lines(2))
        path.unlink()
        file.append(lines(3))
    assert (tmp_path / "mine").read_bytes() == lines(1)[0]
    assert path.read_bytes() == lines(3)[0]


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_only_a_regular_file_is_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "link":
        (tmp_path / "target").touch()
        path.symlink_to("target")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=r"symbolic|regular|directory"):
        RotatedFile(str(path), 100, 3).open()


def test_a_file_of_somebody_else_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    os.chown(path, 12345, -1)
    with pytest.raises(OSError, match="belongs to uid 12345"):
        RotatedFile(str(path), 100, 3).open()


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "log", os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 4:
            return write(file, data[:4])
        raise OSError(errno.ENOSPC, "no space left on device")

    with opened(path) as file:
        file.append(lines(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="no space"):
                file.append(lines(2))
        assert file.written == 0
        file.append(lines(3))
    assert path.read_bytes() == b"".join(lines(1, 3))
