"""kill -9 of cribd at each named step of a pull, and the power cut there: what is listed can run.

The steps are those that the disk shows (inotify(7)); the production code has no hooks for this. A power cut
is played on a disk of its own, an ext4 file system with a journal on a loop device: right after the kill the
device's content is copied, without what the kernel still held back in memory, and another daemon starts on
the copy. As real disks do, the copy has whatever the kernel chose to write early.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from crib.backends.images.checks import check_layer
from crib.client.errors import ClientError
from crib.host.inotify import MOVED_TO, DirectoryWatcher
from crib.model.image import ImageRecord
from crib.model.paths import Paths
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import BuiltImage, Entry, busybox_image, push
from tests.registry import running_registry
from tests.system.labs.daemon import IMAGE, SETTLE_SECONDS, Cri, Cribd, running_cribd, until
from tests.system.labs.leftovers import processes_holding

pytestmark = [pytest.mark.root, pytest.mark.system]

CREATE, MODIFY = 0x100, 0x2  # inotify(7)
LAYERS = 3
"""Of the image, beside the busybox that is there before."""
LAYER_BYTES = 6 << 20
SECONDS = 60.0
TRIES = 30
"""Of a kill that a pull may be faster than: on a busy machine it comes late."""


@dataclass(frozen=True)
class Step:
    """Something that a pull does on the disk: the `count`th file in `place` whose name fits."""

    what: str
    place: str
    fits: Callable[[str], bool]
    count: int = 1


def _whole(name: str) -> bool:
    return name.endswith(".erofs") and not name.startswith(".")


def _incoming(name: str) -> bool:
    return name.endswith(".incoming")


def _record(name: str) -> bool:
    return name == "images.db-wal"


STEPS = (
    Step("the first file of the worker's", "staging", lambda name: True),
    Step("a layer is begun", "staging", lambda name: "partial" in name),
    Step("a layer is whole, and still the worker's", "staging", _whole),
    Step("all layers are whole, and still the worker's", "staging", _whole, LAYERS),
    Step("a layer is taken out of the worker's reach", "layers", _incoming),
    Step("a layer is in place", "layers", _whole),
    Step("all layers are in place", "layers", _whole, LAYERS),
    Step("the record is being written", "", _record),
    Step("the record has been written", "", _record, 2),
)
FEW = (STEPS[2], STEPS[5], STEPS[7])
"""Of the power cuts, those that the ordinary suite looks at."""


class Disk:
    """A file with an ext4 file system; `copy` is what a power cut leaves of it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @staticmethod
    def made(file: Path, size: int = 640 << 20) -> Disk:
        with file.open("wb") as empty:
            empty.truncate(size)
        _run("mkfs.ext4", "-q", "-F", str(file))
        return Disk(file)

    def mount(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        # The loop device goes with the mount.
        _run("mount", "-o", "loop", "-t", "ext4", str(self.file), str(place))

    def copy(self, file: Path) -> Disk:
        """At one moment: again, if the kernel wrote to it meanwhile."""
        for _ in range(20):
            before = self._written()
            _run("cp", "--sparse=always", "--reflink=never", str(self.file), str(file))
            if self._written() == before:
                return Disk(file)
        raise AssertionError(f"{self.file} is written all the time")

    def _written(self) -> int:
        """Sectors that were written to the device (kernel, block/stat)."""
        for device in Path("/sys/block").glob("loop*"):
            with contextlib.suppress(OSError):  # others' devices come and go (ENOENT, ENODEV)
                if (device / "loop/backing_file").read_text().strip() == str(self.file):
                    return int((device / "stat").read_text().split()[6])
        raise AssertionError(f"{self.file} is on no loop device")


class CribdOnDisk(Cribd):
    """A daemon whose data is on a disk of its own."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        disk.mount(self.data)

    def wipe(self) -> None:
        super().wipe()
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            # The kernel lets go of files a moment after the mount or the process that had them.
            done = subprocess.run(["umount", str(self.data)], capture_output=True, text=True, check=False)
            if not done.returncode:
                return
            held = list(processes_holding(self.root))
            assert time.monotonic() < deadline, f"{done.stderr}; held by {held}"
            time.sleep(0.02)  # nobody is told


@contextlib.contextmanager
def running_on(disk: Disk, *, built: tuple[BuiltImage, ...] = ()) -> Iterator[Cribd]:
    cribd = CribdOnDisk(disk)
    try:
        cribd.start()
        if built:
            cribd.import_images(*built)
            cribd.warm_up()
        yield cribd
    finally:
        cribd.end()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    noise = random.Random(1)
    layers = [[Entry(f"data{number}", noise.randbytes(LAYER_BYTES))] for number in range(LAYERS)]
    return busybox_image(*layers)


@pytest.fixture(scope="module")
def name(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the image is called at a registry that runs."""
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        push(url, image, "crash/app", "1")
        yield f"{url.removeprefix('http://')}/crash/app:1"


async def killed_at(cribd: Cribd, step: Step, call: Awaitable[object]) -> bool:
    """Kill the daemon when the step is seen; whether the answer came before."""
    with DirectoryWatcher([]) as watcher:
        watcher.add(str(cribd.data / "staging"), CREATE | MOVED_TO)
        watcher.add(str(cribd.data / "layers"), CREATE | MOVED_TO)
        watcher.add(str(cribd.data), MODIFY)
        place = str(cribd.data / step.place) if step.place else str(cribd.data)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            pull = group.create_task(_answered(call))
            seeing = group.create_task(_seen(watcher, place, step))
            await asyncio.wait([pull, seeing], return_when=asyncio.FIRST_COMPLETED)
            os.kill(cribd.pid, signal.SIGKILL)
            seeing.cancel()
            await asyncio.to_thread(cribd.kill)
            return await pull


async def _seen(watcher: DirectoryWatcher, place: str, step: Step) -> None:
    left = step.count
    async for event in watcher:
        if event.directory == place and step.fits(event.name):
            left -= 1
            if not left:
                return


async def _answered(call: Awaitable[object]) -> bool:
    try:
        await call
    except ClientError as error:
        if error.code != "UNAVAILABLE":
            raise
        return False
    return True


def pull(cri: Cri, name: str) -> Awaitable[object]:
    return cri.call(cri.image.PullImage, pb.PullImageRequest(image=pb.ImageSpec(image=name)))


def records(cribd: Cribd) -> list[ImageRecord]:
    with contextlib.closing(sqlite3.connect(cribd.data / "images.db", timeout=10)) as connection:
        rows = connection.execute("SELECT record FROM images").fetchall()
    return [msgspec.msgpack.decode(row[0], type=ImageRecord) for row in rows]


def pods_on_disk(cribd: Cribd) -> int:
    """A pod that is gone is so on the disk a moment later: until then a power cut brings it back."""
    with contextlib.closing(sqlite3.connect(cribd.data / "crib.db", timeout=10)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM sandboxes").fetchone()
    return int(count)


async def check_store(cribd: Cribd) -> None:
    """Each layer of each image is as it was written, and soon nothing is there beside them."""
    paths = Paths(str(cribd.data), str(cribd.state))
    layers = {layer.diff_id: layer for record in records(cribd) for layer in record.layers}
    for layer in layers.values():
        assert layer.data_digest, f"nothing was recorded of {layer}"
        assert check_layer(paths.layer_file(layer.diff_id), layer) == ""
    files = {os.path.basename(paths.layer_file(diff_id)) for diff_id in layers}
    await until(lambda: set(os.listdir(paths.layers)) == files)  # the sweep goes on behind the gate
    await until(lambda: not half_made(paths.staging))


def half_made(staging: str) -> list[str]:
    """But for parts of blobs, which are kept so that the next pull goes on with them."""
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(staging) if not name.endswith(".blob")]
    return []


async def check_runs(cri: Cri, name: str, image: BuiltImage) -> None:
    """A container sees all of the image."""
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sleep", "100", image=name)
    sizes = await cri.sh(box, "cat /data* | wc -c")
    assert sizes == str(LAYERS * LAYER_BYTES)
    await cri.remove_pod(pod)


async def check_whole(cribd: Cribd, name: str, image: BuiltImage, *, answered: bool) -> None:
    """What a daemon finds after the cut: all or nothing; and the pull succeeds then."""
    await check_store(cribd)
    async with cribd.connect() as cri:
        listed = name in await cri.image_names()
        assert listed or not answered, "an answered pull is lost"
        if listed:
            await check_runs(cri, name, image)
        await pull(cri, name)
        await check_store(cribd)
        await check_runs(cri, name, image)


async def remove(cribd: Cribd, name: str) -> None:
    async with cribd.connect() as cri:
        await cri.call(cri.image.RemoveImage, pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


async def test_a_daemon_killed_at_any_step_of_a_pull_lists_nothing_that_cannot_run(
    cribd: Cribd, name: str, image: BuiltImage
) -> None:
    before = cribd.leftovers()
    for step in STEPS:
        for _ in range(TRIES):
            async with cribd.connect() as cri:
                await cri.sandboxes()  # connected
                answered = await killed_at(cribd, step, pull(cri, name))
            await asyncio.to_thread(cribd.start)
            await check_whole(cribd, name, image, answered=answered)
            await remove(cribd, name)
            if not answered or step.place == "":
                break
        else:
            pytest.fail(f"the pull was faster than the kill, {TRIES} times, at: {step.what}")
        cribd.settle(before)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk.made(tmp_path / "disk")


@pytest.fixture
def cribd_on_disk(disk: Disk) -> Iterator[Cribd]:
    with running_on(disk, built=(busybox_image(name=IMAGE),)) as daemon:
        yield daemon


async def cut(
    cribd: Cribd, disk: Disk, image: BuiltImage, name: str, killed: Callable[[Cri], Awaitable[bool]]
) -> None:
    """Kill the daemon in a pull, start another on the disk as the power cut left it, and look around."""
    await until(lambda: pods_on_disk(cribd) == 0)
    async with cribd.connect() as cri:
        await cri.sandboxes()
        answered = await killed(cri)
    copy = await asyncio.to_thread(disk.copy, disk.file.with_name("copy"))
    try:
        with running_on(copy) as after:
            async with after.connect() as cri:
                assert IMAGE in await cri.image_names()
            await check_whole(after, name, image, answered=answered)
    finally:
        copy.file.unlink()
        await asyncio.to_thread(cribd.start)
    await check_whole(cribd, name, image, answered=answered)
    await remove(cribd, name)


@pytest.mark.parametrize("steps", [FEW, pytest.param(STEPS, marks=pytest.mark.nightly)], ids=["few", "all"])
async def test_after_a_power_cut_at_any_step_of_a_pull_nothing_is_listed_that_cannot_run(
    cribd_on_disk: Cribd, disk: Disk, name: str, image: BuiltImage, steps: tuple[Step, ...]
) -> None:
    for step in steps:

        async def killed(cri: Cri, step: Step = step) -> bool:
            return await killed_at(cribd_on_disk, step, pull(cri, name))

        await cut(cribd_on_disk, disk, image, name, killed)


async def test_a_pull_that_was_answered_survives_a_power_cut(
    cribd_on_disk: Cribd, disk: Disk, name: str, image: BuiltImage
) -> None:
    async def killed(cri: Cri) -> bool:
        await pull(cri, name)
        cribd_on_disk.kill()
        return True

    await cut(cribd_on_disk, disk, image, name, killed)


@pytest.mark.nightly
async def test_after_a_power_cut_at_any_time_nothing_is_listed_that_cannot_run(
    cribd_on_disk: Cribd, disk: Disk, name: str, image: BuiltImage
) -> None:
    for milliseconds in range(20, 1000, 70):

        async def killed(cri: Cri, seconds: float = milliseconds / 1000) -> bool:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(_answered(pull(cri, name)))
                await asyncio.sleep(seconds)  # the moment of the kill; any will do
                await asyncio.to_thread(cribd_on_disk.kill)
                return await waiting

        await cut(cribd_on_disk, disk, image, name, killed)
