from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crib.host import selinux
from crib.host.selinux import Bounds, LabellingLimit, label_file, relabel_tree

LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def test_enabled_where_its_file_system_has_a_policy(tmp_path: Path) -> None:
    assert not selinux.is_enabled(str(tmp_path))
    (tmp_path / "enforce").write_text("0")
    assert selinux.is_enabled(str(tmp_path))


def test_container_contexts_are_those_of_the_policy_in_use(tmp_path: Path) -> None:
    config, newest = str(tmp_path / "config"), str(tmp_path / "newest")
    assert selinux.container_contexts(config, newest) == {}
    (tmp_path / "config").write_text("# comment\nSELINUX=enforcing\nSELINUXTYPE=minimum\n")
    contexts = tmp_path / "minimum" / "contexts"
    contexts.mkdir(parents=True)
    (contexts / "lxc_contexts").write_text(
        'process = "system_u:system_r:container_t:s0"\n; file = "no"\n# file = "no"\nfile="a:b:c:s0"\nodd\n'
    )
    assert selinux.container_contexts(config, newest) == {
        "process": "system_u:system_r:container_t:s0",
        "file": "a:b:c:s0",
    }
    (tmp_path / "newest").write_text('process = "n:e:w:s0"\n')
    assert selinux.container_contexts(config, newest) == {"process": "n:e:w:s0"}


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ({"file": "f:f:f:s0", "ro_file": "r:r:r:s0"}, "r:r:r:s0"),
        ({"file": "f:f:f:s0"}, "f:f:f:s0"),
        ({}, ""),
    ],
)
def test_shared_files_have_the_policys_context_for_what_is_only_read(
    said: dict[str, str], label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selinux, "container_contexts", lambda: said)
    monkeypatch.setattr(selinux, "is_enabled", lambda: True)
    assert selinux.label_of_shared_files() == label
    monkeypatch.setattr(selinux, "is_enabled", lambda: False)
    assert selinux.label_of_shared_files() == ""


def test_a_context_is_known_if_the_kernel_takes_it(tmp_path: Path) -> None:
    (tmp_path / "context").touch()
    assert selinux.is_known(LABEL, str(tmp_path))
    assert (tmp_path / "context").read_bytes() == LABEL.encode() + b"\0"
    with pytest.raises(NotADirectoryError):
        selinux.is_known(LABEL, str(tmp_path / "context"))


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> dict[int, bytes]:
    """Attributes by inode: only root may set the real ones."""
    held: dict[int, bytes] = {}

    def get(place: str, name: str) -> bytes:
        assert name == "security.selinux"
        if os.stat(place).st_ino not in held:
            raise OSError(errno.ENODATA, "none")
        return held[os.stat(place).st_ino]

    def put(place: str, name: str, value: bytes) -> None:
        assert name == "security.selinux"
        held[os.stat(place).st_ino] = value

    monkeypatch.setattr(os, "getxattr", get)
    monkeypatch.setattr(os, "setxattr", put)
    return held


def tree(top: Path) -> list[Path]:
    (top / "a" / "deep").mkdir(parents=True)
    (top / "a" / "file").touch()
    (top / "a" / "deep" / "file").touch()
    os.mkfifo(top / "pipe")
    return [top, *top.rglob("*")]


def test_relabel_reaches_everything_once(tmp_path: Path, labels: dict[int, bytes]) -> None:
    paths = tree(tmp_path)
    assert relabel_tree(str(tmp_path), LABEL) == len(paths)
    assert {path.lstat().st_ino for path in paths} == set(labels)
    assert relabel_tree(str(tmp_path), LABEL) == 0


def test_relabel_does_not_follow_links_out_of_the_tree(tmp_path: Path, labels: dict[int, bytes]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").touch()
    inside = tmp_path / "volume"
    inside.mkdir()
    (inside / "file").symlink_to(outside / "shadow")
    (inside / "directory").symlink_to(outside)
    assert relabel_tree(str(inside), LABEL) == 3
    assert not {outside.stat().st_ino, (outside / "shadow").stat().st_ino} & set(labels)


def test_relabel_survives_a_directory_that_becomes_a_link(
    tmp_path: Path, labels: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").touch()
    inside = tmp_path / "volume"
    (inside / "directory").mkdir(parents=True)
    put = os.setxattr

    def exchange(place: str, name: str, value: bytes) -> None:
        put(place, name, value)
        directory = inside / "directory"
        if directory.is_dir() and not directory.is_symlink():
            directory.rmdir()
            directory.symlink_to(outside)

    monkeypatch.setattr(os, "setxattr", exchange)
    relabel_tree(str(inside), LABEL)
    assert (outside / "shadow").stat().st_ino not in labels


def test_relabel_is_bounded_in_files_and_seconds_and_the_top_comes_last(
    tmp_path: Path, labels: dict[int, bytes]
) -> None:
    for number in range(200):
        (tmp_path / str(number)).touch()
    with pytest.raises(LabellingLimit, match="100 files"):
        relabel_tree(str(tmp_path), LABEL, Bounds(files=100))
    assert len(labels) == 100
    with pytest.raises(LabellingLimit, match="longer than"):
        relabel_tree(str(tmp_path), LABEL, Bounds(seconds=-1))
    assert tmp_path.stat().st_ino not in labels
    done = len(labels)
    assert relabel_tree(str(tmp_path), LABEL) == 201 - done


def test_file_systems_without_labels_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "getxattr", refuse)
    monkeypatch.setattr(os, "setxattr", refuse)
    tree(tmp_path)
    assert relabel_tree(str(tmp_path), LABEL) == 0
    assert not label_file(str(tmp_path), LABEL)


def test_refusals_of_the_kernel_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "getxattr", refuse)
    with pytest.raises(PermissionError):
        label_file(str(tmp_path), LABEL)
    monkeypatch.setattr(os, "getxattr", lambda *_: b"")
    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(PermissionError):
        label_file(str(tmp_path), LABEL)


@pytest.mark.root
@pytest.mark.skipif(selinux.is_enabled(), reason="the label is none of this policy's")
def test_real_attributes_are_set_on_links_themselves(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    try:
        assert relabel_tree(str(tmp_path), LABEL) == 2
    except PermissionError:
        pytest.skip("this file system lets nobody set security attributes")
    assert os.getxattr(tmp_path / "link", "security.selinux", follow_symlinks=False) == LABEL.encode()
