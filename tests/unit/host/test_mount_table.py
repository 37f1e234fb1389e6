"""The mount table, from text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from crib.host import mount_table

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
30 27 0:30 / /run/pods ro,nosuid unbindable - tmpfs tmpfs rw,size=4k
31 30 0:31 /sub /run/pods/a\040b/\303\251 rw - overlay overlay rw,lowerdir=/x
32 27 0:32 / /run/podsman rw - tmpfs none rw
33 30 0:4 net:[402] /run/pods rw - nsfs nsfs rw
not a mount
"""


def test_fields_are_parsed_and_unescaped() -> None:
    entries = mount_table.parse_mountinfo(TABLE)
    assert [entry.mount_id for entry in entries] == [22, 27, 30, 31, 32, 33]
    assert entries[1].propagation == ("shared:1", "master:2")
    assert entries[1].shared
    assert entries[2].read_only
    assert not entries[2].shared
    assert entries[3].path == "/run/pods/a b/é"
    assert entries[3].root == "/sub"
    assert entries[3].super_options == {"rw", "lowerdir=/x"}


def test_mounts_below_a_path_come_last_first_and_only_those(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert [e.mount_id for e in mount_table.mounts_below("/run/pods/", str(table))] == [33, 31, 30]
    assert [e.mount_id for e in mount_table.mounts_below("/run/pods/a b", str(table))] == [31]
    assert len(mount_table.mounts_below("/", str(table))) == 6


def test_what_is_mounted_below_a_path_is_told_by_paths_as_they_are_written(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    for path in ("/run/pods", "/run/pods/a b/"):
        assert mount_table.mount_roots_below(path, str(table)) == {"/run/pods/a b/é": "/sub"}
    assert mount_table.mount_roots_below("/run/pods/a", str(table)) == {}
    table.write_text(f"{TABLE}34 31 0:4 ipc:[403] /run/pods/a\\040b/\\303\\251 rw - nsfs nsfs rw\n")
    assert mount_table.mount_roots_below("/run/pods", str(table)) == {"/run/pods/a b/é": "ipc:[403]"}


def test_a_carriage_return_in_a_name_ends_no_line(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(b"30 27 0:30 / /run/pods/a\rb rw - tmpfs tmpfs rw\n")
    assert [entry.path for entry in mount_table.read_mounts(str(table))] == ["/run/pods/a\rb"]
    assert [entry.path for entry in mount_table.mounts_below("/run", str(table))] == ["/run/pods/a\rb"]
    assert mount_table.mount_roots_below("/run", str(table)) == {"/run/pods/a\rb": "0:30"}, "its device"


def test_a_plain_directory_and_a_missing_path_are_no_mountpoints(tmp_path: Path) -> None:
    (tmp_path / "to-proc").symlink_to("/proc")
    assert mount_table.is_mountpoint("/proc")
    assert mount_table.is_mountpoint("/proc/")
    assert mount_table.is_mountpoint("/")
    assert not mount_table.is_mountpoint(str(tmp_path))
    assert not mount_table.is_mountpoint(str(tmp_path / "to-proc"))
    assert not mount_table.is_mountpoint(str(tmp_path / "missing"))
    assert not mount_table.is_mountpoint(str(tmp_path / "missing" / "too"))


@given(st.text(max_size=300))
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    mount_table.parse_mountinfo(text)
