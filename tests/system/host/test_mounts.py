"""Mounts for real."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import files, mounts
from crib.host.loop_devices import attached_loop
from crib.host.mounts import Bind, Erofs, Overlay, Tmpfs, is_mountpoint, mounts_below, perform, unmount
from crib.host.processes import run
from tests.patience import PATIENCE

pytestmark = pytest.mark.root

DETACH_SECONDS = 30.0 * PATIENCE


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    mounts.make_private_root(str(tmp_path))
    yield tmp_path
    mounts.unmount_tree(str(tmp_path))
    assert mounts_below(str(tmp_path)) == []


def _directories(place: Path, *names: str) -> list[str]:
    for name in names:
        (place / name).mkdir(parents=True)
    return [str(place / name) for name in names]


def test_a_private_root_is_made_once_and_may_become_unbindable(place: Path) -> None:
    mounts.make_private_root(str(place))
    (entry,) = mounts_below(str(place))
    assert entry.propagation == ()
    mounts.make_private_root(str(place), unbindable=True)
    (entry,) = mounts_below(str(place))
    assert entry.propagation == ("unbindable",)


def test_a_mount_inside_an_unbindable_root_can_be_bound_and_a_plain_directory_cannot(place: Path) -> None:
    mount, plain, target = _directories(place, "root/mount", "root/plain", "target")
    root = os.path.dirname(mount)
    mounts.make_private_root(root, unbindable=True)
    perform(Tmpfs(mount, 1 << 20))
    perform(Bind(mount, target))
    with pytest.raises(OSError) as caught:
        perform(Bind(plain, target))
    assert caught.value.errno == errno.EINVAL


def test_a_read_only_bind_refuses_writes_but_not_below(place: Path) -> None:
    source, target = _directories(place, "source/inner", "target")
    source = os.path.dirname(source)
    perform(Tmpfs(f"{source}/inner", 1 << 20))
    perform(Bind(source, target, read_only=True))
    with pytest.raises(OSError) as caught:
        Path(target, "file").touch()
    assert caught.value.errno == errno.EROFS
    Path(target, "inner", "file").touch()
    assert Path(source, "inner", "file").exists()


def test_a_recursive_read_only_bind_refuses_writes_below_too(place: Path) -> None:
    source, target = _directories(place, "source/inner", "target")
    source = os.path.dirname(source)
    perform(Tmpfs(f"{source}/inner", 1 << 20))
    perform(Bind(source, target, recursive_read_only=True))
    with pytest.raises(OSError) as caught:
        Path(target, "inner", "file").touch()
    assert caught.value.errno == errno.EROFS
    Path(source, "inner", "file").touch()


def test_a_bind_that_fails_names_both_paths(place: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere") as caught:
        perform(Bind(str(place / "nowhere"), str(place)))
    assert caught.value.filename == str(place)


def test_a_tmpfs_has_its_size_and_mode(place: Path) -> None:
    (target,) = _directories(place, "shm")
    perform(Tmpfs(target, 64 << 10, 0o1777, no_exec=True))
    assert is_mountpoint(target)
    assert os.stat(target).st_mode & 0o7777 == 0o1777
    assert os.statvfs(target).f_blocks * os.statvfs(target).f_frsize == 64 << 10
    (entry,) = mounts_below(target)
    assert entry.options >= {"nosuid", "nodev", "noexec"}
    assert unmount(target)
    assert not unmount(target)
    assert not is_mountpoint(target)


@pytest.mark.parametrize("way", ["layers", "relative"])
def test_an_overlay_stacks_layers_the_topmost_first(place: Path, way: str) -> None:
    names = ("l/a:b", "l/c,d", "l/e\\f", "u\\p:,", "work", "merged dir")
    *lower, upper, work, target = _directories(place, *names)
    for number, directory in enumerate(lower):
        Path(directory, "which").write_text(str(number))
        Path(directory, f"only{number}").touch()
    overlay = Overlay(target, tuple(lower), upper, work)
    if way == "layers":
        mounts._overlay_by_layers(overlay)
    else:
        before = os.getcwd()
        mounts._overlay_by_relative_paths(overlay, OSError(errno.EINVAL, "old kernel"))
        assert os.getcwd() == before
    assert Path(target, "which").read_text() == "0"
    assert sorted(os.listdir(target)) == ["only0", "only1", "only2", "which"]
    Path(target, "new").touch()
    assert os.listdir(upper) == ["new"]


def test_an_overlay_of_127_layers_with_long_paths_is_mounted(place: Path) -> None:
    long = "x" * 150 + "/" + "y" * 150
    lower = _directories(place, *(f"{long}/{number}" for number in range(127)))
    (target,) = _directories(place, "merged")
    Path(lower[-1], "deepest").touch()
    perform(Overlay(target, tuple(lower)))
    assert os.listdir(target) == ["deepest"]


def test_an_overlay_that_the_kernel_refuses_says_why(place: Path) -> None:
    a, b, target = _directories(place, "a", "b", "merged")
    with pytest.raises(OSError, match="overlay failed") as caught:
        perform(Overlay(target, (a, b), flags=("nonsense=1",)))
    assert caught.value.filename == target
    assert "nonsense" in str(caught.value)
    assert not is_mountpoint(target)


async def _image(place: Path) -> str:
    (content,) = _directories(place, "content")
    Path(content, "hello").write_text("world")
    image = str(place / "layer.erofs")
    (await run(["mkfs.erofs", "--quiet", image, content])).check()
    return image


@pytest.mark.parametrize("direct_io", [False, True])
async def test_erofs_from_a_file(place: Path, direct_io: bool) -> None:
    image = await _image(place)
    (target,) = _directories(place, "mounted")
    try:
        perform(Erofs(target, image, direct_io=direct_io))
    except OSError as error:
        if error.errno == errno.ENOTBLK:
            pytest.skip("this file system cannot hold file-backed mounts")
        raise
    assert Path(target, "hello").read_text() == "world"
    with pytest.raises(OSError) as caught:
        Path(target, "new").touch()
    assert caught.value.errno == errno.EROFS


def _until_detached(backing: Path, file: str) -> None:
    """Wait until a loop device has let go of the file.

    A mount namespace that was made meanwhile has its mount too, and udev may just look into the device.
    """
    deadline = time.monotonic() + DETACH_SECONDS
    while _backing_file(backing) == file:
        assert time.monotonic() < deadline, f"{backing} is still {file}"
        time.sleep(0.01)  # the kernel tells nobody


def _backing_file(backing: Path) -> str:
    try:
        return backing.read_text().strip()
    except OSError:  # it goes, perhaps just now (ENODEV)
        return ""


async def test_erofs_from_a_loop_device_that_ends_with_the_mount(place: Path) -> None:
    image = await _image(place)
    (target,) = _directories(place, "mounted")
    with attached_loop(image, direct_io=True) as device:
        perform(Erofs(target, device.path))
        backing = Path("/sys/block", os.path.basename(device.path), "loop", "backing_file")
        assert backing.read_text().strip() == image
    assert Path(target, "hello").read_text() == "world"
    assert _backing_file(backing) == image
    unmount(target)
    _until_detached(backing, image)


def test_a_loop_device_without_a_mount_is_gone_after_the_block(place: Path) -> None:
    (place / "image").write_bytes(bytes(1 << 20))
    with attached_loop(str(place / "image")) as device:
        assert os.path.exists(device.path)
        backing = Path("/sys/block", os.path.basename(device.path), "loop", "backing_file")
        assert _backing_file(backing) == str(place / "image")
    _until_detached(backing, str(place / "image"))


def test_a_torn_erofs_is_refused(place: Path) -> None:
    (target,) = _directories(place, "mounted")
    (place / "torn").write_bytes(bytes(1 << 16))
    with pytest.raises(OSError, match="mount of erofs failed") as caught:
        perform(Erofs(target, str(place / "torn")))
    assert caught.value.filename == target


def test_stacked_mounts_are_unmounted_last_first(place: Path) -> None:
    a, b = _directories(place, "tree/a", "tree/b")
    perform(Tmpfs(a, 1 << 20))
    os.mkdir(f"{a}/inner")
    perform(Tmpfs(f"{a}/inner", 1 << 20))
    perform(Tmpfs(a, 1 << 20))
    perform(Tmpfs(b, 1 << 20))
    assert mounts.unmount_tree(str(place / "tree"), lazy=False) == 4
    assert mounts.unmount_tree(str(place / "tree")) == 0


def test_a_busy_mount_says_so_and_goes_when_lazy(place: Path) -> None:
    (target,) = _directories(place, "busy")
    perform(Tmpfs(target, 1 << 20))
    with open(f"{target}/open", "w", encoding="ascii"):
        with pytest.raises(OSError) as caught:
            unmount(target)
        assert caught.value.errno == errno.EBUSY
        assert unmount(target, lazy=True)
    assert not is_mountpoint(target)


def test_a_link_to_a_mount_is_not_unmounted(place: Path) -> None:
    (target,) = _directories(place, "real")
    perform(Tmpfs(target, 1 << 20))
    (place / "link").symlink_to(target)
    assert not unmount(str(place / "link"))
    assert is_mountpoint(target)


def test_removing_a_tree_stops_at_a_mount(place: Path) -> None:
    (inner,) = _directories(place, "tree/inner")
    perform(Tmpfs(inner, 1 << 20))
    Path(inner, "precious").touch()
    with pytest.raises(OSError) as caught:
        files.remove_tree(str(place / "tree"))
    assert caught.value.errno == errno.EBUSY
    assert Path(inner, "precious").exists()
    assert files.disk_usage(str(place / "tree")).inodes == 1
    unmount(inner)
    files.remove_tree(str(place / "tree"))
    assert not (place / "tree").exists()


def test_a_device_in_place_of_a_file_is_not_opened(place: Path) -> None:
    os.mknod(place / "tty", 0o600 | 0o020000, os.makedev(5, 0))
    with pytest.raises(OSError, match="not a regular file"):
        files.read_in_root(str(place), "tty", 10)
