"""What a checkpoint is made of: the changes of a root, the archive, and waiting for an earlier program."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from crib.backends.oci.checkpoint_files import (
    CaptureDirectory,
    draft_of,
    plan_archive,
    rename_synced,
    write_archive,
    write_diff,
)

AT = 1_700_000_000


@pytest.fixture
def capture(tmp_path: Path) -> CaptureDirectory:
    made = CaptureDirectory(str(tmp_path / "capture"))
    os.close(made.make())
    (Path(made.files.images) / "inventory.img").write_bytes(b"inventory")
    return made


@pytest.mark.root
def test_the_changes_of_a_root_are_a_tar_of_what_is_new_and_a_list_of_what_is_gone(
    tmp_path: Path, capture: CaptureDirectory
) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for name in ("kept", "hidden", "again"):
        (lower / "opt").mkdir(parents=True, exist_ok=True)
        (lower / "opt" / name).write_text(name)
    (upper / "opt").mkdir(parents=True)
    (upper / "opt" / "again").write_text("new")
    os.setxattr(upper / "opt", "trusted.overlay.opaque", b"y")
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    (upper / "link").symlink_to("/etc/passwd")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(upper / "socket"))
    write_diff(capture, str(upper), [str(lower)])
    with tarfile.open(capture.diff) as diff:
        assert sorted(diff.getnames()) == [".", "link", "opt", "opt/again"]
        assert "SCHILY.xattr.trusted.overlay.opaque" not in diff.getmember("opt").pax_headers
    assert json.loads(Path(capture.deleted).read_text()) == ["/gone", "/opt/hidden", "/opt/kept"]
    assert os.stat(capture.diff).st_mode & 0o777 == 0o600


def packed(tmp_path: Path, capture: CaptureDirectory, log: str = "", seconds: float = 60) -> Path:
    Path(capture.diff).write_bytes(b"diff")
    Path(capture.deleted).write_bytes(b"[]")
    location = f"{tmp_path}/archive.tar"
    draft = draft_of(location, "c" * 64)
    write_archive(plan_archive(capture, [("config.dump", b"{}")], log, AT), draft, seconds)
    assert Path(draft).stat().st_mode & 0o777 == 0o600
    rename_synced(draft, location)
    return Path(location)


def test_an_archive_has_its_members_in_order_and_takes_the_place_of_an_earlier_one(
    tmp_path: Path, capture: CaptureDirectory
) -> None:
    (tmp_path / "archive.tar").write_text("earlier")
    (tmp_path / "log").write_text("a line\n")
    assert draft_of(f"{tmp_path}/archive.tar", "c" * 64) == f"{tmp_path}/.archive.tar.cccccccccccc.partial"
    with tarfile.open(packed(tmp_path, capture, f"{tmp_path}/log")) as archive:
        assert archive.getnames() == [
            *("checkpoint", "config.dump", "deleted.files", "container.log"),
            *("rootfs-diff.tar", "checkpoint/inventory.img"),
        ]
        assert {member.mtime for member in archive} == {AT}


def test_a_log_that_is_gone_or_is_no_file_does_not_get_another_file_into_the_archive(
    tmp_path: Path, capture: CaptureDirectory
) -> None:
    with tarfile.open(packed(tmp_path, capture, f"{tmp_path}/missing")) as archive:
        assert "container.log" not in archive.getnames()
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="link"):
        packed(tmp_path, capture, f"{tmp_path}/link")


def test_an_archive_that_is_not_written_in_time_gets_no_name(
    tmp_path: Path, capture: CaptureDirectory
) -> None:
    with pytest.raises(TimeoutError):
        packed(tmp_path, capture, seconds=-1)
    assert not (tmp_path / "archive.tar").exists()


def test_the_end_of_an_earlier_program_is_waited_for_by_its_lock(capture: CaptureDirectory) -> None:
    held = capture.make()
    with pytest.raises(TimeoutError, match="has not ended"):
        capture.await_end(0)
    waiting = threading.Thread(target=capture.await_end, args=(60,))
    waiting.start()
    fcntl.flock(held, fcntl.LOCK_UN)
    waiting.join(60)
    os.close(held)
    assert not waiting.is_alive()
    capture.remove()
    capture.await_end(0)


def test_what_criu_gave_as_its_reasons_is_told_before_what_the_runtime_says(
    capture: CaptureDirectory,
) -> None:
    assert capture.words() == ""
    Path(capture.files.log).write_text("criu failed: type NOTIFY errno 0\n")
    assert capture.words() == "criu failed: type NOTIFY errno 0"
    Path(capture.files.work, "dump.log").write_text("one\nError (criu/x.c:1): no\nError (criu/y.c:2): way\n")
    assert capture.words() == "Error (criu/x.c:1): no; Error (criu/y.c:2): way"
