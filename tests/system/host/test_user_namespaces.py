"""User namespaces made, pinned and used for real."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.backends.bundle.id_maps import mounts_inside
from crib.host import libc, mounts, namespaces, user_namespaces
from crib.host.user_namespaces import IdMaps, IdRange
from crib.model.errors import InvalidRequest

pytestmark = [pytest.mark.root, pytest.mark.system]

MAPS = IdMaps((IdRange(0, 100000, 65536),), (IdRange(0, 200000, 65536),))


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[str]:
    mounts.make_private_root(str(tmp_path), unbindable=True)
    yield str(tmp_path)
    mounts.unmount_tree(str(tmp_path))


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def owner_of(namespace: str) -> int:
    """The inode of the user namespace that a namespace belongs to (ioctl_ns(2), NS_GET_USERNS)."""
    import fcntl

    with open(namespace) as file:
        fd = fcntl.ioctl(file.fileno(), 0xB701)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


async def test_the_other_namespaces_belong_to_the_new_users(pins: str) -> None:
    before = children()
    await user_namespaces.pin_user_namespace(MAPS, ("net", "ipc", "uts"), pins, hostname="pod-1")
    assert sorted(os.listdir(pins)) == ["ipc", "net", "user", "uts"]
    user = os.stat(f"{pins}/user").st_ino
    assert user != os.stat("/proc/self/ns/user").st_ino
    assert {owner_of(f"{pins}/{kind}") for kind in ("net", "ipc", "uts")} == {user}
    assert namespaces.run_in_namespace(f"{pins}/uts", "uts", socket.gethostname) == "pod-1"
    assert children() <= before
    for name in os.listdir(pins):
        namespaces.unpin(f"{pins}/{name}")
    assert os.listdir(pins) == []


async def test_the_message_queues_belong_to_root_of_the_new_users(pins: str) -> None:
    await user_namespaces.pin_user_namespace(MAPS, ("ipc",), pins)

    def owner() -> tuple[int, int]:
        libc.mount("mqueue", f"{pins}/queues", "mqueue", 0)
        found = os.stat(f"{pins}/queues")
        return found.st_uid, found.st_gid

    os.mkdir(f"{pins}/queues")
    assert namespaces.run_in_namespace(f"{pins}/ipc", "ipc", owner) == (100000, 200000)


async def test_what_fails_inside_leaves_nothing_pinned(pins: str) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await user_namespaces.pin_user_namespace(MAPS, ("net",), pins, inside=fail)
    assert os.listdir(pins) == []


async def test_a_map_that_the_kernel_refuses_is_told_with_its_numbers(pins: str) -> None:
    twice = IdMaps((IdRange(0, 1000, 10), IdRange(5, 2000, 10)), MAPS.gids)
    with pytest.raises(OSError, match="0 1000 10") as failure:
        await user_namespaces.pin_user_namespace(twice, (), pins)
    assert failure.value.errno == errno.EINVAL
    assert os.listdir(pins) == []


async def test_a_caller_that_is_cancelled_leaves_no_process(pins: str) -> None:
    before = children()
    work = asyncio.ensure_future(user_namespaces.pin_user_namespace(MAPS, ("net", "ipc"), pins))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert children() <= before
    assert os.listdir(pins) == []


async def test_files_are_shown_with_the_ids_of_an_open_user_namespace(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    os.chown(source, 5, 6)
    async with user_namespaces.open_user_namespace(MAPS) as fd:
        mounts.perform(mounts.Bind(str(source), str(target), idmap_fd=fd))
    try:
        shown = os.stat(target)
        assert (shown.st_uid, shown.st_gid) == (100005, 200006)
    finally:
        mounts.unmount(str(target))


def test_mounts_below_a_source_are_found_parents_first(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    mounts.perform(mounts.Tmpfs(str(outer), 1 << 20))
    try:
        inner = outer / "in ner"
        inner.mkdir()
        mounts.perform(mounts.Tmpfs(str(inner), 1 << 20))
        assert mounts_inside([str(tmp_path), "", str(tmp_path / "missing"), "/"]) == (
            ("outer", "outer/in ner"),
            (),
            (),
            (),
        )
        for number in range(64):
            place = inner / str(number)
            place.mkdir()
            mounts.perform(mounts.Tmpfs(str(place), 1 << 20))
        with pytest.raises(InvalidRequest, match="more than 64 mounts"):
            mounts_inside([str(tmp_path)])
    finally:
        mounts.unmount_tree(str(tmp_path))
