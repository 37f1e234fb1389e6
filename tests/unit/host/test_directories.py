"""Modes of directories, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host.directories import PRIVATE_UMASK, NotOurs, make_directory, shut_others_out
from crib.host.files import remove_tree


@pytest.fixture(autouse=True)
def private_umask() -> Iterator[None]:
    before = os.umask(PRIVATE_UMASK)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_that_is_made_gets_the_mode_and_what_was_there_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(0o700)
    make_directory(f"{tmp_path}/there/one/two/", 0o755)
    assert mode(tmp_path / "there") == 0o700
    assert mode(tmp_path / "there/one") == mode(tmp_path / "there/one/two") == 0o755
    make_directory(f"{tmp_path}/there/one", 0o711)
    assert mode(tmp_path / "there/one") == 0o755


def test_a_path_of_any_depth_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_directory("/".join(["d"] * 1500), 0o755)
    assert os.path.isdir("/".join(["d"] * 1500))
    remove_tree("./d")  # pytest cannot


@pytest.mark.parametrize("last", ["", "/below"])
def test_what_is_no_directory_is_not_taken_for_one(tmp_path: Path, last: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises((FileExistsError, NotADirectoryError)):
            make_directory(f"{tmp_path}/{name}{last}", 0o755)


def test_a_link_put_in_the_place_of_a_new_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir(0o700)
    mkdir = os.mkdir

    def swapped(path: str, mode: int) -> None:
        mkdir(path, mode)
        os.rmdir(path)
        os.symlink(target, path)

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(OSError, match="link"):
        make_directory(f"{tmp_path}/new", 0o755)
    assert mode(target) == 0o700


def test_others_lose_the_rights_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o755)
    assert shut_others_out(str(path), 0o066)
    assert mode(path) == 0o711
    assert not shut_others_out(str(path), 0o066)


@pytest.mark.parametrize("wide", [0o770, 0o702, 0o1777])
def test_a_directory_that_others_may_write_is_not_ours(tmp_path: Path, wide: int) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(wide)
    with pytest.raises(NotOurs, match=f"others may write {path}"):
        shut_others_out(str(path), 0o066)
    assert mode(path) == wide
