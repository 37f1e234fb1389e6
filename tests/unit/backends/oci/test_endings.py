"""Parts of how containers run that need no container: words of a refused program, files of a rotated log."""

from __future__ import annotations

import calendar
import errno
import os
from pathlib import Path

import pytest

from crib.backends.runtime_words import refused_program
from crib.backends.streams.log_rotation import finish, remove_oldest, set_aside, undo

AT = b"2026-01-02T03:04:05.000000000Z stderr F "
NOW = float(calendar.timegm((2026, 1, 2, 3, 4, 5)))


@pytest.mark.parametrize(
    "words",
    [
        b"exec container process `/bin/bad`: Exec format error",
        b"exec container process (missing dynamic library?) `/bin/noint`: No such file or directory",
        b"exec /bin/bad: exec format error",
        b"exec /usr/local/bin/run me: no such file or directory",
        b"standard_init_linux.go:228: exec user process caused: exec format error",
        b'exec user process caused "exec format error"',
    ],
)
def test_a_runtimes_words_on_a_refused_program_are_known(words: bytes) -> None:
    assert refused_program(AT + words + b"\n") == words.decode()
    assert refused_program(AT.replace(b"stderr", b"stdout") + words + b"\r\n") == words.decode()


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"no entry\n",
        AT + b"exec container process `/bin/bad`: Exec format error",  # not written to its end
        AT + b"exec container process `/bin/bad`: Exec format error\n" + AT + b"more\n",
        AT + b"hello\n" + AT + b"exec /bin/bad: exec format error\n",
        AT + b"exec: nothere: not found\n",
        AT + b"exec failed\n",
        AT + b"\xff\xfe\n",
    ],
)
def test_what_a_program_writes_itself_is_its_own(log: bytes) -> None:
    assert refused_program(log) == ""


def test_a_log_gets_a_kubelets_name_once_a_second_and_keeps_its_own(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    assert set_aside(str(log), 0, NOW) == "", "somebody has just moved it away"
    log.write_text("old")
    assert set_aside(str(log), 3, NOW) == "", "it is not longer"
    aside = set_aside(str(log), 2, NOW)
    assert aside == f"{log}.20260102-030405"
    assert log.samefile(aside)
    replaced(log, "new")
    assert set_aside(str(log), 2, NOW + 0.9) == ""
    assert log.read_text() == "new"
    assert Path(aside).read_text() == "old"


def replaced(log: Path, text: str) -> None:
    """As conmon does it."""
    new = log.with_suffix(".log.tmp")
    new.write_text(text)
    new.rename(log)


def test_a_rotation_that_was_cut_off_is_gone_on_with_under_the_name_that_it_had_chosen(
    tmp_path: Path,
) -> None:
    log = tmp_path / "0.log"
    log.write_text("old")
    other = set_aside(str(log), 2, NOW)
    replaced(log, "new")
    aside = set_aside(str(log), 2, NOW + 1)
    assert set_aside(str(log), 2, NOW + 60) == aside != other


def test_what_a_pod_puts_in_the_place_of_its_log_is_not_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.symlink_to(__file__)
    assert set_aside(str(log), 0, NOW) == ""
    assert log.is_symlink()


def test_a_rotation_is_undone_unless_there_is_a_new_log(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("old")
    aside = set_aside(str(log), 2, NOW)
    undo(str(log), aside)
    assert log.read_text() == "old"
    assert not Path(aside).exists()
    aside = set_aside(str(log), 2, NOW)
    replaced(log, "new")
    undo(str(log), aside)
    assert (log.read_text(), Path(aside).read_text()) == ("new", "old")
    undo(str(log), f"{log}.gone")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without hard links, such as FAT (link(2), EPERM)."""

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def contents(directory: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in directory.iterdir()}


def test_without_hard_links_a_log_is_moved_and_gets_its_stamp_when_there_is_a_new_one(
    tmp_path: Path, no_links: None
) -> None:
    log = tmp_path / "0.log"
    log.write_text("old")
    assert set_aside(str(log), 2, NOW) == f"{log}.rotating"
    replaced(log, "new")
    finish(str(log), 1, NOW)
    assert contents(tmp_path) == {"0.log": "new", "0.log.20260102-030405": "old"}
    assert set_aside(str(log), 2, NOW) == f"{log}.rotating"
    replaced(log, "newer")
    finish(str(log), 1, NOW)
    assert contents(tmp_path) == {"0.log": "newer", "0.log.20260102-030405": "old", "0.log.rotating": "new"}
    assert set_aside(str(log), 2, NOW + 1) == f"{log}.rotating"
    replaced(log, "newest")
    finish(str(log), 1, NOW + 2)
    stamps = {f"0.log.{stamp}": text for stamp, text in (("20260102-030407", "newer"),)}
    assert contents(tmp_path) == {"0.log": "newest", **stamps}


def test_without_hard_links_a_rotation_that_was_cut_off_is_gone_on_with_or_undone(
    tmp_path: Path, no_links: None
) -> None:
    log = tmp_path / "0.log"
    log.write_text("old")
    aside = set_aside(str(log), 2, NOW)
    assert set_aside(str(log), 2, NOW + 60) == aside
    undo(str(log), aside)
    assert contents(tmp_path) == {"0.log": "old"}
    set_aside(str(log), 2, NOW)
    replaced(log, "new")
    undo(str(log), aside)
    assert contents(tmp_path) == {"0.log": "new", "0.log.rotating": "old"}
    assert set_aside(str(log), 2, NOW) == aside
    assert contents(tmp_path) == {"0.log.20260102-030405": "old", "0.log.rotating": "new"}


def test_only_the_oldest_files_of_that_log_are_removed(tmp_path: Path) -> None:
    stamps = ["20260102-030405", "20260102-030406.gz", "20260101-000000", "20260103-000000"]
    others = ["0.log", "0.log.1", "0.log.20260101-000000.tmp", "10.log.20250101-000000", "1.log"]
    for name in [*(f"0.log.{stamp}" for stamp in stamps), *others]:
        (tmp_path / name).touch()
    remove_oldest(str(tmp_path / "0.log"), 2)
    left = {entry.name for entry in tmp_path.iterdir()} - set(others)
    assert left == {"0.log.20260102-030406.gz", "0.log.20260103-000000"}
    remove_oldest(str(tmp_path / "0.log"), 9)
    assert {entry.name for entry in tmp_path.iterdir()} == left | set(others)
