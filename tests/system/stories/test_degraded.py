"""The disk of the records is full or read-only, under the real daemon, on real small file systems."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crib.client import pods
from crib.client.errors import ClientError
from crib.client.pods import Pod
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.images import busybox_image
from tests.system.labs.daemon import IMAGE, Cri, Cribd, first_pid
from tests.system.labs.leftovers import processes_of

pytestmark = [pytest.mark.root, pytest.mark.system]

DISK_MIB = 64
BOUND = 60.0


class OnDisk(Cribd):
    """A daemon whose data lie on a small disk of their own."""

    def __init__(self) -> None:
        super().__init__(extra="[images]\nmin_free = 0")
        self.data.mkdir()
        self.file = self.root / "disk"
        with self.file.open("wb") as empty:
            empty.truncate(DISK_MIB << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.file))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop,errors=remount-ro", "-t", "ext4", str(self.file), str(self.data))

    def fill(self) -> None:
        """To the last byte."""
        with open(self.data / "filler", "ab", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def empty(self) -> None:
        (self.data / "filler").unlink()

    def fail(self) -> None:
        """The kernel has found an error on it: nothing is written any more (ext4(5), errors=remount-ro)."""
        device = os.stat(self.data).st_dev
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("played by a test")

    def freeze(self, *, on: bool) -> None:
        """Whoever writes waits (ioctl_fifreeze), as for a disk that does not answer."""
        _run("fsfreeze", "--freeze" if on else "--unfreeze", str(self.data))

    def repair(self) -> None:
        """Another disk, with what was saved of this one. Pods that run keep the old mount."""
        _run("umount", "-l", str(self.data))
        saved = self.file.with_name("saved")
        _run("cp", "--sparse=always", str(self.file), str(saved))
        subprocess.run(["e2fsck", "-fy", str(saved)], capture_output=True, check=False)
        self.file = saved
        self.mount()

    def wipe(self) -> None:
        super().wipe()
        _run("umount", str(self.data))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@pytest.fixture
def cribd() -> Iterator[OnDisk]:
    daemon = OnDisk()
    try:
        daemon.start()
        daemon.import_images(busybox_image(name=IMAGE))
        yield daemon
    finally:
        with contextlib.suppress(AssertionError):  # it was not frozen
            daemon.freeze(on=False)
        daemon.end()


@pytest.fixture
async def cri(cribd: OnDisk) -> AsyncIterator[Cri]:
    async with cribd.connect() as connection:
        yield connection


async def until(told: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND):
        while not await told():  # noqa: ASYNC110  # nobody is told of a condition of Status
            await asyncio.sleep(0.05)


async def runtime_ready(cri: Cri) -> pb.RuntimeCondition:
    status = (await cri.call(cri.runtime.Status, pb.StatusRequest())).status
    return next(one for one in status.conditions if one.type == "RuntimeReady")


async def is_ready(cri: Cri) -> bool:
    return (await runtime_ready(cri)).status


async def not_ready(cri: Cri) -> bool:
    return not await is_ready(cri)


async def refused(cri: Cri, call: Awaitable[Any], reason: str) -> None:
    with pytest.raises(ClientError) as caught:
        await call
    assert caught.value.code == "UNAVAILABLE"
    assert "records: " in str(caught.value)
    assert reason in str(caught.value)


async def nothing_is_made(cri: Cri, pod: Pod, waits: str, reason: str) -> None:
    """RunPodSandbox, CreateContainer, StartContainer, PullImage."""

    async def told() -> bool:
        return reason in (await runtime_ready(cri)).message

    await until(told)
    await refused(cri, cri.run_pod("more"), reason)
    await refused(cri, cri.create(pod, "true", name="more"), reason)
    await refused(cri, cri.start(waits), reason)
    pull = pb.PullImageRequest(image=pb.ImageSpec(image="127.0.0.1:1/none:1"))
    await refused(cri, cri.call(cri.image.PullImage, pull), reason)


async def test_on_a_full_disk_what_runs_goes_on_ends_and_goes_and_nothing_is_made_until_there_is_room(
    cribd: OnDisk, cri: Cri
) -> None:
    pod, other = await cri.run_pod("one"), await cri.run_pod("two")
    box = await cri.run_container(pod, "sh", "-c", "echo hello; read line; exit 7", stdin=True)
    stopped = await cri.run_container(pod, "sleep", "1000", name="stopped")
    killed = await cri.run_container(other, "sleep", "1000")
    waits = await cri.create(pod, "sleep", "1000", name="waits")
    cribd.fill()
    await cri.stop_container(killed)
    await until(lambda: not_ready(cri))
    await nothing_is_made(cri, pod, waits, "its disk is full")
    assert set(await cri.sandboxes()) == {pod.id, other.id}
    assert await cri.sh(box, "echo here") == "here"
    assert "hello" in (cribd.logs / "one" / "box.log").read_text()
    os.kill(await first_pid(cri, stopped), signal.SIGKILL)
    assert (await cri.exited(stopped)).exit_code == 137
    await cri.remove_pod(other)
    cribd.written()  # of the reserve
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        assert not await is_ready(again)
        assert set(await again.sandboxes()) == {pod.id}
        assert (await again.status(stopped)).exit_code == 137
        await again.stop_container(box)
        cribd.empty()
        await until(lambda: is_ready(again))
        await again.start(waits)
        await again.run_container(pod, "true", name="next")
        await again.remove_pod(pod)
    assert "that has ended" in cribd.log()


async def test_on_a_disk_that_became_read_only_what_runs_goes_on_and_ends_and_a_restart_knows_it(
    cribd: OnDisk, cri: Cri
) -> None:
    pod = await cri.run_pod("one")
    box = await cri.run_container(pod, "sleep", "1000")
    stopped = await cri.run_container(pod, "sleep", "1000", name="stopped")
    waits = await cri.create(pod, "sleep", "1000", name="waits")
    cribd.written()
    cribd.fail()
    await cri.stop_container(stopped)
    await until(lambda: not_ready(cri))
    await nothing_is_made(cri, pod, waits, "Read-only file system")
    assert await cri.sh(box, "echo here") == "here"
    cribd.kill()
    cribd.start()  # on the same disk
    async with cribd.connect() as again:
        assert not await is_ready(again)
        assert (await again.status(stopped)).exit_code == 137
        assert await again.sh(box, "echo here") == "here"
        assert IMAGE in await again.image_names()
        await again.stop_pod(pod)
        assert (await again.status(box)).exit_code == 137
        await again.remove_container(stopped)
        cribd.kill()
    cribd.repair()
    cribd.start()
    async with cribd.connect() as again:
        assert await is_ready(again), await runtime_ready(again)
        assert (await again.status(box)).exit_code == 137
        assert stopped not in await again.containers()
        assert not (cribd.data / "containers" / stopped).exists()
        await again.remove_pod(pod)
        cribd.written()
        await again.run_container(await again.run_pod("next"), "true")


async def test_a_start_that_was_under_way_when_the_disk_filled_up_never_leaves_two_instances(
    cribd: OnDisk, cri: Cri
) -> None:
    pod = await cri.run_pod("one")
    box = await cri.create(pod, "sleep", "1000")
    cribd.written()
    cribd.fill()
    with contextlib.suppress(ClientError):  # whether the daemon had seen it yet
        await cri.start(box)
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        with contextlib.suppress(ClientError):
            await again.start(box)
        config = again.container_config("sleep", "1000")
        config.metadata.attempt = 1  # a kubelet's next try
        # Refused by us if we have seen that the disk is full, else by the disk: then the runtime says of a
        # mount's place, which it could not make, that it is not there.
        with pytest.raises(ClientError, match=r"its disk is full|No space left|No such file"):
            await pods.create_container(again.connection, pod, config)
        cribd.empty()
        await until(lambda: is_ready(again))
        await again.start(box)
        found = [pid for pid, line in processes_of(cribd.root, cribd.cgroup) if line.startswith("sleep 1000")]
        assert found == [await first_pid(again, box)]


async def test_a_disk_that_hangs_holds_up_no_answer_and_no_stop(cribd: OnDisk, cri: Cri) -> None:
    pod = await cri.run_pod("one")
    box = await cri.run_container(pod, "sleep", "1000")
    waits = await cri.create(pod, "sleep", "1000", name="waits")
    cribd.written()
    cribd.freeze(on=True)
    await cri.stop_container(box)
    assert (await cri.status(box)).exit_code == 137
    await until(lambda: not_ready(cri))
    await nothing_is_made(cri, pod, waits, "does not answer")
    await cri.stop_pod(pod)
    os.kill(cribd.pid, signal.SIGKILL)
    cribd.freeze(on=False)  # it does not die before its write has come back
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        await until(lambda: is_ready(again))
        assert (await again.status(box)).exit_code == 137
        assert (await again.pod_status(pod)).state == pb.SANDBOX_NOTREADY
        await again.remove_pod(pod)


async def test_a_pod_is_removed_while_the_disk_hangs_and_its_files_when_that_answers(
    cribd: OnDisk, cri: Cri
) -> None:
    async def removed_while_frozen(cri: Cri, name: str) -> Path:
        """Where what the container has written still is."""
        pod = await cri.run_pod(name)
        box = await cri.run_container(pod, "sleep", "1000")
        cribd.written()
        cribd.freeze(on=True)
        async with asyncio.timeout(BOUND):
            await cri.remove_pod(pod)
        assert (await cri.sandboxes(), await cri.containers()) == ({}, {})
        layer = cribd.data / "containers" / box
        assert layer.exists()
        return layer

    async def is_gone() -> bool:
        return not layer.exists()

    layer = await removed_while_frozen(cri, "one")
    cribd.freeze(on=False)
    await until(is_gone)
    await until(lambda: is_ready(cri))
    layer = await removed_while_frozen(cri, "two")
    os.kill(cribd.pid, signal.SIGKILL)
    cribd.freeze(on=False)  # as above
    cribd.kill()
    cribd.start()
    await until(is_gone)
    async with cribd.connect() as again:
        assert (await again.sandboxes(), await again.containers()) == ({}, {})


async def test_a_damaged_file_of_images_costs_no_layer(cribd: OnDisk, cri: Cri) -> None:
    layers = set(os.listdir(cribd.data / "layers"))
    box = await cri.run_container(await cri.run_pod("one"), "sleep", "1000")
    cribd.kill()
    for suffix in ("-wal", "-shm"):
        (cribd.data / f"images.db{suffix}").unlink(missing_ok=True)
    (cribd.data / "images.db").write_bytes(b"not a database at all" * 1000)
    cribd.start()
    async with cribd.connect() as again:
        assert await is_ready(again)
        assert await again.sh(box, "echo on") == "on"
        assert await again.image_names() == set()
        for sandbox in await again.sandboxes():
            await again.remove_pod(sandbox)  # the last to need a layer
        assert set(os.listdir(cribd.data / "layers")) == layers
        await asyncio.to_thread(cribd.import_images, busybox_image(name=IMAGE))
        await again.run_container(await again.run_pod("next"), "true")
    assert "records were lost, so layers that may be theirs are not removed" in cribd.log()
