"""Namespaces pinned and entered for real."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crib.host import mounts, namespaces
from crib.host.sysctls import read_sysctl, write_sysctl
from tests.patience import PATIENCE

pytestmark = pytest.mark.root


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[str]:
    before = set(threading.enumerate())
    mounts.make_private_root(str(tmp_path), unbindable=True)
    yield str(tmp_path)
    mounts.unmount_tree(str(tmp_path))
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # one that has told its result may be just about to end
        assert not thread.is_alive(), thread


def _own(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def test_pinned_namespaces_are_new_and_hold_what_was_set_inside(pins: str) -> None:
    before = {kind: _own(kind) for kind in ("net", "ipc", "uts")}
    host = socket.gethostname()
    made = namespaces.pin_namespaces(
        ("net", "ipc", "uts"),
        pins,
        hostname="pod-1",
        inside=lambda: write_sysctl("net.ipv4.ip_unprivileged_port_start", "7"),
    )
    assert made == {kind: f"{pins}/{kind}" for kind in ("net", "ipc", "uts")}
    for kind, path in made.items():
        assert f"{kind}:[{os.stat(path).st_ino}]" != before[kind]
        assert _own(kind) == before[kind]
    assert socket.gethostname() == host
    assert namespaces.run_in_namespace(made["uts"], "uts", socket.gethostname) == "pod-1"
    read = namespaces.run_in_namespace(
        made["net"], "net", lambda: read_sysctl("net.ipv4.ip_unprivileged_port_start")
    )
    assert read == "7"
    assert read_sysctl("net.ipv4.ip_unprivileged_port_start") != "7"
    for path in made.values():
        namespaces.unpin(path)
        namespaces.unpin(path)
    assert os.listdir(pins) == []
    assert len(mounts.mounts_below(pins)) == 1


def test_a_failure_inside_leaves_nothing_pinned(pins: str) -> None:
    with pytest.raises(FileNotFoundError):
        namespaces.pin_namespaces(("net",), pins, inside=lambda: write_sysctl("net.nothing", "1"))
    assert os.listdir(pins) == []


def test_a_pin_that_exists_is_not_covered_and_the_others_are_undone(pins: str) -> None:
    namespaces.pin_namespaces(("ipc",), pins)
    inode = os.stat(f"{pins}/ipc").st_ino
    with pytest.raises(FileExistsError):
        namespaces.pin_namespaces(("net", "ipc"), pins)
    assert os.listdir(pins) == ["ipc"]
    assert os.stat(f"{pins}/ipc").st_ino == inode


async def test_the_async_forms_do_the_same_while_the_loop_goes_on(pins: str) -> None:
    made = await namespaces.pin_namespaces_async(("net", "uts"), pins, hostname="pod-2")
    entered = threading.Event()

    def work() -> str:
        entered.wait(10)
        return socket.gethostname()

    task = asyncio.ensure_future(namespaces.run_in_namespace_async(made["uts"], "uts", work))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    entered.set()
    assert await asyncio.wait_for(task, 10 * PATIENCE) == "pod-2"
    with pytest.raises(ZeroDivisionError):
        await namespaces.run_in_namespace_async(made["net"], "net", lambda: 1 // 0)


async def test_cancelled_pinning_leaves_nothing_pinned(pins: str) -> None:
    go = threading.Event()

    def inside() -> None:
        go.wait(10)

    task = asyncio.ensure_future(namespaces.pin_namespaces_async(("net", "ipc"), pins, inside=inside))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10 * PATIENCE)
    assert os.listdir(pins) == []


def test_a_socket_made_inside_belongs_to_the_namespace_and_is_used_outside(pins: str) -> None:
    made = namespaces.pin_namespaces(("net",), pins)
    outer = os.open(made["net"], os.O_RDONLY)
    try:
        with namespaces.run_in_namespace(outer, "net", socket.socket) as inside, pytest.raises(OSError):
            inside.connect(("127.0.0.1", 9))  # loopback is down in there: unreachable, not refused
        assert os.fstat(outer).st_ino == os.stat(made["net"]).st_ino
    finally:
        os.close(outer)


def test_a_wrong_kind_is_named(pins: str) -> None:
    made = namespaces.pin_namespaces(("net",), pins)
    with pytest.raises(OSError, match="entering the uts namespace failed") as caught:
        namespaces.run_in_namespace(made["net"], "uts", lambda: None)
    assert caught.value.filename == made["net"]


def test_a_mount_namespace_can_be_entered() -> None:
    assert namespaces.run_in_namespace("/proc/self/ns/mnt", "mnt", os.getcwd) == "/"
