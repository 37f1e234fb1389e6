"""Checkpoints that were made to do harm: what is in them reaches no other place, and is bounded.

The classes are those of CVE-2024-8676, CVE-2026-50195, CVE-2026-53489, CVE-2026-53492, and of all unpackers.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.oci import checkpoint_changes, checkpoint_source
from crib.backends.oci.checkpoint_changes import apply_changes
from crib.backends.oci.checkpoint_main import inspect, write_images
from crib.backends.oci.checkpoint_source import CheckpointParts, FilePart, Unsound, open_source
from crib.wire.tar import TarError

CONFIG = b'{"id": "a", "name": "box", "rootfsImageRef": "docker.io/library/busybox:test"}'
Entry = tuple[str, bytes | str | int]
"""A name, and a file's content, a link's target, or a type of tarfile's."""


def tar(*entries: Entry, **fields: object) -> bytes:
    """In this order; `fields` are set on each of them."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            if isinstance(content, str):
                kind, _, info.linkname = content.partition(":")
                info.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}[kind]
            elif isinstance(content, int):
                info.type = bytes([content])
            else:
                info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return target.getvalue()


DIRECTORY, DEVICE, BLOCK, FIFO = (kind[0] for kind in (b"5", b"3", b"4", b"6"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A root below a directory that nothing may get into."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    (tmp_path / "root").mkdir()
    yield tmp_path
    assert sorted(os.listdir(tmp_path)) in (["outside", "root"], ["outside", "root", "source"])
    assert os.listdir(tmp_path / "outside") == ["kept"]
    assert (tmp_path / "outside" / "kept").read_text() == "kept"


def source(place: Path, archive: bytes) -> CheckpointParts:
    (place / "source").write_bytes(archive)
    return open_source(os.open(place / "source", os.O_RDONLY | os.O_CLOEXEC))


def part(place: Path, content: bytes) -> FilePart:
    fd = os.memfd_create("part")
    os.write(fd, content)
    return FilePart(fd, 0, len(content))


def change(place: Path, *entries: Entry, deleted: bytes = b"[]", **fields: object) -> None:
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        apply_changes(part(place, tar(*entries, **fields)), part(place, deleted), root)
    finally:
        os.close(root)


# the archive


def test_only_what_counts_is_taken_from_an_archive(place: Path) -> None:
    found = source(
        place,
        tar(
            ("checkpoint", DIRECTORY),
            ("checkpoint/inventory.img", b"inventory"),
            ("spec.dump", b'{"mounts": [{"source": "/", "destination": "/host"}]}'),
            ("container.log", "link:/etc/shadow"),
            ("checkpoint/../../outside/kept", b"gone"),
            ("/outside/kept", b"gone"),
            ("config.dump", CONFIG),
        ),
    )
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    write_images(found, root)
    os.close(root)
    assert os.listdir(place / "root") == ["inventory.img"]
    assert inspect(found).image_ref == "docker.io/library/busybox:test"


@pytest.mark.parametrize(
    "entry",
    [
        ("checkpoint/inventory.img", "link:/etc/shadow"),
        ("checkpoint/inventory.img", "hard:config.dump"),
        ("checkpoint/inventory.img", DEVICE),
        ("checkpoint/inventory.img", FIFO),
        ("checkpoint", "link:/etc"),
        ("checkpoint/.hidden", b""),
        ("checkpoint/a b", b""),
        ("config.dump", "link:/etc/shadow"),
        ("rootfs-diff.tar", "hard:config.dump"),
        ("deleted.files", BLOCK),
    ],
)
def test_what_should_be_a_file_and_is_not_is_refused(place: Path, entry: Entry) -> None:
    with pytest.raises(Unsound):
        source(place, tar(entry))


def test_a_part_that_is_in_it_twice_is_refused(place: Path) -> None:
    with pytest.raises(Unsound, match="twice"):
        source(place, tar(("config.dump", CONFIG), ("./config.dump", CONFIG)))


def test_a_sparse_part_is_refused_because_it_may_claim_any_size(place: Path) -> None:
    claims = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 50)}
    data = b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
    with pytest.raises((Unsound, TarError)):
        source(place, tar(("checkpoint/pages-1.img", data), pax_headers=claims))


def test_more_members_than_a_checkpoint_has_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_source, "MAX_MEMBERS", 3)
    with pytest.raises(TarError):
        source(place, tar(*((f"other-{number}", b"") for number in range(4))))


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (tar(("other", b"")), "no config.dump"),
        (tar(("config.dump", b"[]")), "config.dump"),
        (tar(("config.dump", b'{"id": "a", "name": "' + b"x" * 5000 + b'"}')), "characters"),
        (tar(("config.dump", bytes(9 << 20))), "at most"),
    ],
    ids=["none", "of another kind", "a long name", "a long document"],
)
def test_a_config_that_is_none_is_refused(place: Path, archive: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        inspect(source(place, archive))


@pytest.mark.parametrize("archive", [b"\x1f\x8b" + bytes(600), tar(("config.dump", CONFIG))[:600], b"x"])
def test_what_is_no_whole_tar_is_refused(place: Path, archive: bytes) -> None:
    with pytest.raises(ValueError, match=r"tar|ends"):
        source(place, archive)


def test_a_checkpoint_without_images_is_refused(place: Path) -> None:
    root = os.open(place / "root", os.O_RDONLY | os.O_DIRECTORY)
    with pytest.raises(Unsound, match="no images"):
        write_images(source(place, tar(("config.dump", CONFIG))), root)
    os.close(root)


def test_links_in_the_root_of_a_checkpoint_image_are_refused(place: Path) -> None:
    root = place / "root"
    (root / "config.dump").symlink_to("/etc/shadow")
    (root / "checkpoint").symlink_to("/etc")
    found = open_source(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
    with pytest.raises(Unsound):
        inspect(found)
    with pytest.raises(Unsound):
        list(found.images())
    (root / "checkpoint").unlink()
    (root / "checkpoint").mkdir()
    (root / "checkpoint" / "inventory.img").symlink_to("/etc/shadow")
    with pytest.raises(Unsound):
        list(found.images())


# the changes of the root


def test_changes_are_made_with_owners_modes_and_removals(place: Path) -> None:
    root = place / "root"
    (root / "etc").mkdir()
    (root / "etc" / "old").write_text("old")
    (root / "etc" / "gone").write_text("gone")
    (root / "opt" / "inner").mkdir(parents=True)
    (root / "opt" / "inner" / "file").write_text("gone")
    change(
        place,
        ("etc", DIRECTORY),
        ("etc/old", b"new"),
        ("etc/link", "link:/nowhere"),
        ("etc/same", "hard:etc/old"),
        ("opt/new", b"new"),
        ("opt/.wh..wh..opq", b""),
        ("etc/.wh.gone", b""),
        ("pipe", FIFO),
        deleted=b'["/opt/missing", "/etc/missing/too"]',
        uid=7,
        gid=8,
    )
    assert (root / "etc" / "old").read_text() == "new"
    status = (root / "etc" / "old").stat()
    assert (status.st_uid, status.st_gid, status.st_nlink, status.st_mode & 0o777) == (7, 8, 2, 0o644)
    assert os.readlink(root / "etc" / "link") == "/nowhere"
    assert sorted(os.listdir(root / "etc")) == ["link", "old", "same"]
    assert os.listdir(root / "opt") == ["new"]
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)


def test_what_was_deleted_is_taken_away_with_all_below_it(place: Path) -> None:
    (place / "root" / "a" / "b").mkdir(parents=True)
    (place / "root" / "a" / "link").symlink_to(place / "outside")
    change(place, deleted=b'["/a"]')
    assert os.listdir(place / "root") == []


@pytest.mark.parametrize(
    "entries",
    [
        [("../outside/kept", b"gone")],
        [("a/../../outside/kept", b"gone")],
        [("a", "link:../outside"), ("a/kept", b"gone")],
        [("a", "link:../outside"), ("a/new", DIRECTORY)],
        [("a", "link:../outside"), ("a/.wh.kept", b"")],
        [("a", "link:../outside"), ("a/.wh..wh..opq", b"")],
        [("a", "link:../outside"), ("b", "hard:a/kept")],
        [("b", "hard:../outside/kept")],
        [("b", "hard:/etc/passwd")],
        [("a", "link:../outside/kept"), ("b", "hard:a")],
        [("a", DIRECTORY), ("b", "hard:a")],
        [(".wh...", b"")],
        [("a/.wh.", b"")],
        [("disk", BLOCK)],
        [("console", DEVICE)],
    ],
)
def test_changes_that_lead_out_of_the_root_are_refused(place: Path, entries: list[Entry]) -> None:
    with pytest.raises(Unsound):
        change(place, *entries)


def test_an_absolute_name_is_one_of_the_root(place: Path) -> None:
    change(place, ("/outside/kept", b"inside"))
    assert (place / "root" / "outside" / "kept").read_text() == "inside"


def test_a_link_at_the_place_of_a_file_is_replaced_and_not_followed(place: Path) -> None:
    (place / "root" / "a").symlink_to(place / "outside" / "kept")
    change(place, ("a", b"new"))
    assert not (place / "root" / "a").is_symlink()
    (place / "root" / "b").symlink_to(place / "outside")
    change(place, ("b", DIRECTORY))
    assert not (place / "root" / "b").is_symlink()


@pytest.mark.parametrize("deleted", [b'["../outside/kept"]', b'["/a/kept"]', b"{}", b"[1]"])
def test_a_list_of_deleted_files_that_leads_out_of_the_root_is_refused(place: Path, deleted: bytes) -> None:
    (place / "root" / "a").symlink_to(place / "outside")
    with pytest.raises(Unsound):
        change(place, deleted=deleted)


@pytest.mark.parametrize("top", ["dev", "proc", "sys"])
def test_nothing_is_changed_where_the_runtime_mounts(place: Path, top: str) -> None:
    change(place, (f"{top}/null", DEVICE), (top, "link:../outside"), deleted=f'["/{top}"]'.encode())
    assert os.listdir(place / "root") == []


def test_attributes_of_the_host_are_left_out(place: Path) -> None:
    attributes = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.security.selinux": "other",
        "SCHILY.xattr.user.own": "kept",
    }
    change(place, ("a", b"new"), pax_headers=attributes)
    assert os.listxattr(place / "root" / "a") == ["user.own"]


def test_more_changes_than_a_root_has_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_changes, "MAX_CHANGES", 2)
    with pytest.raises(TarError):
        change(place, ("a", b""), ("b", b""), ("c", b""))
    with pytest.raises(Unsound, match="more than"):
        change(place, deleted=b'["/a", "/b", "/c"]')
