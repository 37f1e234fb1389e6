"""Loop devices that are written to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.volumes import disks
from crib.host.loop_devices import attach_loop, attached_loop, detach_loop, find_loops, refresh_size
from tests.patience import PATIENCE

pytestmark = pytest.mark.root

SIZE = 1 << 20
GONE_SECONDS = 30.0 * PATIENCE


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    yield str(path)
    for device in find_loops(str(path)):
        detach_loop(device)
    assert is_gone(str(path))


def is_gone(path: str) -> bool:
    """Nothing is attached to the file, or is not any more once udev has looked at it."""
    deadline = time.monotonic() + GONE_SECONDS
    while found := find_loops(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)  # udev tells nobody
    return not found


def write(device: str, data: bytes) -> None:
    fd = os.open(device, os.O_WRONLY)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def test_a_device_stays_until_it_is_detached_and_is_found_by_its_file(image: str) -> None:
    assert find_loops(image) == []
    device = attach_loop(image).path
    write(device, b"hello" + bytes(507))
    assert find_loops(image) == [device]
    assert Path(image).read_bytes()[:5] == b"hello"
    assert detach_loop(device)
    assert is_gone(image)
    assert not detach_loop(device)


def test_a_device_of_another_file_with_a_longer_name_is_not_taken_for_it(image: str) -> None:
    longer = f"{image}.other"
    Path(longer).write_bytes(bytes(SIZE))
    device = attach_loop(longer).path
    try:
        assert find_loops(image) == []
        assert find_loops(longer) == [device]
    finally:
        detach_loop(device)


def test_a_file_that_was_replaced_is_another_one(image: str) -> None:
    device = attach_loop(image).path
    try:
        os.rename(image, f"{image}.moved")
        Path(image).write_bytes(bytes(SIZE))
        assert find_loops(image) == []
        assert find_loops(f"{image}.moved") == [device]
    finally:
        detach_loop(device)
    assert find_loops(f"{image}.neither") == []


def test_a_device_that_is_in_use_goes_with_its_last_user(image: str) -> None:
    device = attach_loop(image).path
    user = os.open(device, os.O_RDONLY)
    try:
        assert find_loops(image, lasting=True) == [device]
        assert detach_loop(device)
        assert find_loops(image) == [device]
        assert find_loops(image, lasting=True) == []
        another = disks.device_of(disks.FileOrDevice(image, SIZE, SIZE, is_file=True))
        assert another != device, "it would be gone with its user"
        assert detach_loop(another)
    finally:
        os.close(user)
    assert is_gone(image)


def test_a_file_that_has_grown_gives_a_larger_device(image: str) -> None:
    with attached_loop(image, writable=True) as loop:
        os.truncate(image, 3 * SIZE)
        assert refresh_size(loop.path) == 3 * SIZE
    assert is_gone(image)


def test_a_read_only_device_takes_no_write(image: str) -> None:
    device = attach_loop(image, writable=False).path
    try:
        with pytest.raises(PermissionError):
            write(device, bytes(512))
    finally:
        detach_loop(device)
