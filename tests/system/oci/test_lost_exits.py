"""Exits whose directory, bundle or monitor is lost, or for whose file there is no room: each is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from crib.backends.known_processes import is_alive
from crib.backends.oci import exits
from crib.backends.oci.handler import OciHandler
from crib.host import libc
from crib.host.mounts import unmount_tree
from crib.model.container import ContainerRecord, Exit
from crib.model.errors import Broken
from tests.system.labs.oci_pods import config, pod, running
from tests.system.labs.oci_setup import BOUND, LAYER, OciLab, PlainLayers, oci_lab
from tests.system.labs.oci_streams import comes_true

pytestmark = [pytest.mark.root, pytest.mark.system]

_MS_REMOUNT = 32
UNTIL_TOLD = ("sh", "-c", "until [ -e /go ]; do sleep 0.02; done; exit 3")


@pytest.fixture
async def lab() -> AsyncIterator[OciLab]:
    async with oci_lab() as made:
        yield made


@contextlib.asynccontextmanager
async def box(lab: OciLab) -> AsyncIterator[ContainerRecord]:
    """A container that ends with 3 once `let_go` says so."""
    async with pod(lab) as sandbox, running(lab, sandbox, config(*UNTIL_TOLD)) as record:
        yield record


def let_go(record: ContainerRecord) -> None:
    assert record.process is not None
    Path(f"/proc/{record.process.pid}/root/go").touch()


@contextlib.asynccontextmanager
async def told(handler: OciHandler, ready: Callable[[], bool]) -> AsyncIterator[asyncio.Future[Exit]]:
    """The next exit; the block begins when `ready`."""
    stream = handler.containers.exits()
    found = asyncio.ensure_future(anext(stream))
    try:
        await comes_true(ready)
        yield found
    finally:
        found.cancel()
        await asyncio.wait([found])
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
        await handler.close()


def watched(lab: OciLab) -> bool:
    """Whether this process watches the directory of exits: its inode is in an inotify's fdinfo (proc(5))."""
    if not os.path.isdir(lab.paths.exits):
        return False
    wanted = f"ino:{os.stat(lab.paths.exits).st_ino:x} "
    return any(wanted in text for text in _inotifies())


def _inotifies() -> Iterator[str]:
    for entry in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "inotify" in (text := entry.read_text()):
                yield text


async def within(found: asyncio.Future[Exit]) -> Exit:
    async with asyncio.timeout(BOUND):
        return await found


async def test_a_directory_of_exits_that_was_removed_is_made_again_and_watched(lab: OciLab) -> None:
    async with box(lab) as record, told(lab.handler, lambda: watched(lab)) as found:
        shutil.rmtree(lab.paths.exits)
        await comes_true(lambda: watched(lab))
        let_go(record)
        assert ((await within(found)).id, (await within(found)).code) == (record.id, 3)


async def test_an_exit_that_could_not_be_filed_is_told_as_lost_by_its_monitors_end(lab: OciLab) -> None:
    async with box(lab) as record, told(lab.handler, lambda: watched(lab)) as found:
        os.rmdir(lab.paths.exits)
        Path(lab.paths.exits).touch()  # no directory can be made there
        let_go(record)
        await comes_true(lambda: not is_alive(record.monitor))
        with contextlib.suppress(Broken):  # the watch may fail first, and who listens will listen again
            assert (await within(found)).lost
        os.unlink(lab.paths.exits)
        last = (
            found
            if found.exception() is None
            else asyncio.ensure_future(anext(lab.handler.containers.exits()))
        )
        assert ((await within(last)).id, (await within(last)).lost) == (record.id, True)


@pytest.mark.parametrize("again", [False, True])
async def test_a_container_whose_bundle_was_removed_by_hand_tells_its_exit_and_can_be_deleted(
    lab: OciLab, again: bool
) -> None:
    """The same for a daemon that has just started, and never saw the bundle."""
    async with box(lab) as record:
        handler = OciHandler(lab.environment, PlainLayers({LAYER: "/"})) if again else lab.handler
        bundle = lab.paths.container(record.id)
        unmount_tree(bundle)
        shutil.rmtree(bundle)
        observed = await handler.containers.observe(record)
        assert (observed.status, observed.exit, observed.monitor_alive) == ("running", None, True)
        async with told(handler, lambda: watched(lab)) as found:
            let_go(record)
            assert ((await within(found)).id, (await within(found)).code) == (record.id, 3)


async def test_a_monitor_that_dies_is_told_of_although_the_bundle_is_lost_and_the_daemon_new(
    lab: OciLab,
) -> None:
    async with box(lab) as record:
        assert record.monitor is not None
        unmount_tree(lab.paths.container(record.id))
        shutil.rmtree(lab.paths.container(record.id))
        handler = OciHandler(lab.environment, PlainLayers({LAYER: "/"}))
        await handler.containers.observe(record)
        async with told(handler, lambda: watched(lab)) as found:
            os.kill(record.monitor.pid, signal.SIGKILL)
            assert ((await within(found)).id, (await within(found)).lost) == (record.id, True)


@pytest.mark.parametrize("natural", [False, True])
async def test_without_room_for_its_state_a_container_that_ends_is_told_of(
    lab: OciLab, natural: bool
) -> None:
    async with box(lab) as record, told(lab.handler, lambda: watched(lab)) as found:
        dies = record.process if natural else record.monitor
        assert dies is not None
        with no_room(lab):
            os.kill(dies.pid, signal.SIGKILL)
            first = await within(found)
        assert (first.id, first.lost) == (record.id, True)
        assert abs(time.time() - first.at / 1e9) < BOUND


@contextlib.contextmanager
def no_room(lab: OciLab) -> Iterator[None]:
    """No file can be made on the lab's tmpfs: ENOSPC, as it has as many inodes as it may have."""
    top = os.path.dirname(lab.logs)
    found = os.statvfs(top)
    used = found.f_files - found.f_ffree
    libc.mount(None, top, None, _MS_REMOUNT, f"nr_inodes={used}")
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            Path(lab.paths.exits, "probe").touch()
        yield
    finally:
        libc.mount(None, top, None, _MS_REMOUNT, f"nr_inodes={found.f_files}")


async def test_a_monitor_that_hangs_is_not_waited_for_for_ever(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "MONITOR_TIME", 0.05)
    async with box(lab) as record, told(lab.handler, lambda: watched(lab)) as found:
        assert record.monitor is not None
        os.kill(record.monitor.pid, signal.SIGSTOP)
        let_go(record)
        first = await within(found)
        assert (first.id, first.code, first.lost) == (record.id, 255, True)
        os.kill(record.monitor.pid, signal.SIGCONT)


async def test_an_exit_file_that_cannot_be_read_for_want_of_descriptors_is_read_later(
    lab: OciLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "RETRY_AFTER", 0.01)
    tries: list[object] = []
    read = exits.Exits._on_file

    def fail_twice(self: exits.Exits, *args: object) -> Exit | None:
        tries.append(args)
        if len(tries) <= 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(self, *args)  # type: ignore[arg-type]

    async with box(lab) as record, told(lab.handler, lambda: watched(lab)) as found:
        monkeypatch.setattr(exits.Exits, "_on_file", fail_twice)
        let_go(record)
        assert ((await within(found)).code, len(tries) > 2) == (3, True)
