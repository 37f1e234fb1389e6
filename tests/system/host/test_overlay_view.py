"""Looking at stacked directories as one, in a mount namespace that nobody else is in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host.files import read_in_root
from crib.host.mounts import Tmpfs, look_through, perform, unmount

pytestmark = pytest.mark.root


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The upper one changes a file, hides another and links a third."""
    perform(Tmpfs(str(tmp_path), 1 << 20))
    low, high = tmp_path / "low", tmp_path / "high"
    for layer in (low, high):
        (layer / "etc").mkdir(parents=True)
    (low / "etc/passwd").write_text("low")
    (low / "etc/group").write_text("low")
    (low / "etc/real").write_text("below the link")
    (high / "etc/passwd").write_text("high")
    os.mknod(high / "etc/group", stat.S_IFCHR, 0)  # a whiteout (kernel, filesystems/overlayfs)
    (high / "etc/link").symlink_to("/etc/real")
    yield str(high), str(low)
    unmount(str(tmp_path))


def test_layers_are_seen_as_one_and_links_stay_inside(layers: tuple[str, str]) -> None:
    def look(root: str) -> tuple[bytes, list[str], bytes]:
        names = sorted(os.listdir(f"{root}/etc"))
        return read_in_root(root, "etc/passwd", 100), names, read_in_root(root, "etc/link", 100)

    assert look_through(layers, layers[1], look) == (
        b"high",
        ["link", "passwd", "real"],
        b"below the link",
    )


def mounts_of(layers: tuple[str, str], whose: str = "self") -> list[str]:
    """What the kernel tells of mounts at, of or over them; of other tests' it tells as well."""
    place = os.path.dirname(layers[0])
    return [line for line in Path(f"/proc/{whose}/mountinfo").read_text().splitlines() if place in line]


def test_nobody_else_sees_the_mount_and_nothing_stays(layers: tuple[str, str]) -> None:
    before = mounts_of(layers)
    during = look_through(layers, layers[1], lambda _: mounts_of(layers))
    assert during == before  # of the process, whose other threads stay where they were
    assert mounts_of(layers) == before
    inside = look_through(layers, layers[1], lambda _: mounts_of(layers, "thread-self"))
    assert len(inside) == len(before) + 1
    assert sorted(os.listdir(f"{layers[1]}/etc")) == ["group", "passwd", "real"]


def test_one_layer_is_looked_at_as_it_is_and_errors_come_through(layers: tuple[str, str]) -> None:
    assert look_through(layers[1:], "/nowhere", lambda root: root) == layers[1]
    for stack in (layers, layers[1:]):
        with pytest.raises(FileNotFoundError):
            look_through(stack, layers[1], lambda root: os.listdir(f"{root}/nosuch"))
    with pytest.raises(OSError, match="nowhere"):
        look_through(layers, "/nowhere", os.listdir)
