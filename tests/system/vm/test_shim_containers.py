"""Containers in a VM, by its shim: one pod for all of these tests, as a boot is slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from crib.backends.shim.events import EventsServer
from crib.backends.shim.fifo_ends import has_reader, open_input, open_output
from crib.backends.shim.nouns import ProcessStatus
from crib.backends.shim.task_client import ShimCalls
from crib.host.ext4_files import used_inodes
from crib.host.mounts import Tmpfs, is_mountpoint, perform, set_propagation, unmount_tree
from crib.model.errors import CribError, NotBuilt, NotFound, WrongState
from crib.model.ids import ContainerId
from crib.stubs.vm import guest_pb2
from crib.vm.shim.disk_note import BlockVolume
from tests.system.labs.vm_disks import block_device, make_disk, make_layers, open_files, write_note
from tests.system.labs.vm_shims import BOUND, POD, FifoText, VmContainer, VmShim, vm_shim

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vm(image: str) -> AsyncIterator[VmShim]:
    async with vm_shim(image) as made:
        await made.boot()
        yield made
        assert not os.listdir(f"{made.bundle(POD)}/share/c"), "each test has deleted its containers"
        await made.stop()


async def test_states_follow_a_container_through_its_life(vm: VmShim) -> None:
    qemu = int((await vm.facts())["qemu"])
    container = vm.container("life", "/bin/sleep", "1000", score=300)
    out, _ = await container.create(stdio := container.stdio())
    state = await vm.tasks.state("life")
    assert (state.status, state.pid, state.stdio) == (ProcessStatus.CREATED, qemu, stdio)
    await vm.tasks.start("life")
    assert (await vm.tasks.state("life")).status is ProcessStatus.RUNNING
    script = "echo in; cat /proc/self/oom_score_adj; exit 5"
    assert await container.execute("x", "/bin/sh", "-c", script) == (5, b"in\n300\n", b"")
    await vm.tasks.pause("life")
    assert (await vm.tasks.state("life")).status is ProcessStatus.PAUSED
    await vm.tasks.resume("life")
    with pytest.raises(WrongState):
        await vm.tasks.delete("life")
    waiting = asyncio.ensure_future(vm.tasks.wait("life"))
    await vm.tasks.kill("life", 15, everyone=True)
    await vm.tasks.kill("life", 9)
    async with asyncio.timeout(BOUND):
        ended = await waiting
        assert await out.all() == b""
    assert ended.code in (137, 143)
    assert (await vm.tasks.state("life")).status is ProcessStatus.STOPPED
    assert (await vm.tasks.delete("life")).code == ended.code


async def test_bytes_go_through_whole_in_both_directions(vm: VmShim) -> None:
    container = vm.container("bytes", "/bin/sh", "-c", "cat; echo end >&2")
    stdio = container.stdio(stdin=True)
    out, err = await container.create(stdio)
    fd = open_input(stdio.stdin)
    await vm.tasks.start("bytes")
    sent = os.urandom(3 << 20)
    await asyncio.to_thread(write_all, fd, sent)
    await vm.tasks.close_io("bytes")
    os.close(fd)
    async with asyncio.timeout(BOUND):
        assert (await vm.tasks.wait("bytes")).code == 0
        assert await out.all() == sent
        assert await err.all() == b"end\n"
    await vm.tasks.delete("bytes")


def write_all(fd: int, data: bytes) -> None:
    os.set_blocking(fd, True)
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


async def test_a_terminal_has_a_size_and_takes_lines(vm: VmShim) -> None:
    container = vm.container("terminal", "/bin/sh", terminal=True)
    stdio = container.stdio(stdin=True, terminal=True)
    out, _ = await container.create(stdio)
    fd = open_input(stdio.stdin)
    await vm.tasks.start("terminal")
    await has_reader(fd, asyncio.get_running_loop().create_future())
    await vm.tasks.resize_pty("terminal", 93, 27)
    os.write(fd, b"stty size; tty\n")
    await out.until(b"\r\n27 93\r\n")
    os.write(fd, b"exit 4\n")
    async with asyncio.timeout(BOUND):
        assert (await vm.tasks.wait("terminal")).code == 4
    os.close(fd)
    await vm.tasks.delete("terminal")


async def test_volumes_of_the_host_are_seen_as_they_change(vm: VmShim) -> None:
    volume, secret = f"{vm.top}/volume", f"{vm.top}/secret"
    os.makedirs(f"{volume}/below")
    Path(volume, "there").write_text("before\n")
    Path(secret).write_text("whisper\n")
    mounts = [
        {"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"]},
        {"destination": "/shut", "type": "bind", "source": volume, "options": ["bind", "ro"]},
        {"destination": "/secret", "type": "bind", "source": secret, "options": ["bind", "ro"]},
    ]
    container = vm.container("volumes", "/bin/sleep", "1000", mounts=mounts)
    await container.create(container.stdio())
    await vm.tasks.start("volumes")
    assert await container.execute("a", "/bin/cat", "/data/there", "/secret") == (
        *(0, b"before\nwhisper\n", b""),
    )
    code, _, err = await container.execute("b", "/bin/sh", "-c", "echo no > /shut/there")
    assert code != 0
    assert b"ead-only" in err
    script = "echo made > /data/made; ln /data/made /data/below/link; mkfifo /data/fifo"
    assert (await container.execute("c", "/bin/sh", "-c", script))[0] == 0
    assert Path(volume, "below/link").read_text() == "made\n"
    Path(volume, "there").write_text("after, and longer\n")
    async with asyncio.timeout(BOUND):  # the guest may believe what it knows for a second
        number = 0
        while (await container.execute(f"d{number}", "/bin/cat", "/data/there"))[1] != (
            b"after, and longer\n"
        ):
            number += 1
    await vm.tasks.kill("volumes", 9)
    await vm.tasks.wait("volumes")
    await vm.tasks.delete("volumes")
    assert sorted(os.listdir(volume)) == ["below", "fifo", "made", "there"]


async def test_a_guest_cannot_write_into_the_tree_that_it_is_given(vm: VmShim) -> None:
    """What the shim makes there by its path could be led elsewhere by a link otherwise."""
    container = vm.container("tree", "/bin/sleep", "1000")
    await container.create(container.stdio())
    share = f"{vm.bundle(POD)}/share"
    assert os.path.exists(f"{share}/c/tree/config.json")
    assert os.listdir(f"{share}/c/tree/rootfs") == [], "what is bound there is in no table of the host"
    assert share not in Path("/proc/self/mountinfo").read_text()
    view = f"/proc/{(await vm.facts())['virtiofsd']}/root"
    assert os.path.exists(f"{view}/c/tree/rootfs/bin/busybox")
    with pytest.raises(OSError, match="Read-only"):
        os.symlink("/etc", f"{view}/c/link")
    Path(f"{view}/c/tree/rootfs/new").touch()
    await vm.tasks.kill("tree", 9)
    await vm.tasks.wait("tree")
    await vm.tasks.delete("tree")


async def test_what_a_vm_cannot_give_is_refused_by_name_and_leaves_nothing(vm: VmShim) -> None:
    mounts = [{"destination": "/m", "type": "bind", "source": vm.socket, "options": ["rbind"]}]
    container = vm.container("refused", "/bin/true", mounts=mounts)
    with pytest.raises(NotBuilt, match=r"mounts\[4\].*socket"):
        await container.create(container.stdio())
    missing = vm.container("refused-two", "/bin/nothing-here")
    with pytest.raises(CribError, match="nothing-here"):
        await created_and_started(missing)
    with contextlib.suppress(NotFound):
        await vm.tasks.delete("refused-two")
    assert not os.path.exists(f"{vm.bundle(POD)}/share/c/refused")


async def created_and_started(container: VmContainer) -> None:
    """Which of the two fails is the runtime's choice."""
    await container.create(container.stdio())
    await container.vm.tasks.start(container.name)


async def test_a_container_of_the_pod_gets_the_pods_shim(vm: VmShim) -> None:
    container = vm.container("owner", "/bin/true", annotations={"io.kubernetes.cri.sandbox-id": POD})
    assert await vm.run_start("owner", container.bundle) == vm.socket


async def test_out_of_memory_in_a_container_is_told_before_its_end(vm: VmShim) -> None:
    events = EventsServer(f"{vm.top}/events")
    await events.open()
    limits = {"memory": {"limit": 24 << 20, "swap": 24 << 20}}
    eat = "x=a; while true; do x=$x$x; done"
    container = vm.container("memory", "/bin/sh", "-c", eat, resources=limits)
    await container.create(container.stdio())
    await vm.tasks.start("memory")
    async with asyncio.timeout(BOUND):
        assert (await vm.tasks.wait("memory")).code == 137
    assert events.was_killed(ContainerId("memory"))
    events.close()
    await vm.tasks.delete("memory")


async def test_output_waits_for_a_reader_that_comes_back(vm: VmShim) -> None:
    count = 200_000
    container = vm.container("reader", "/bin/busybox", "seq", str(count))
    stdio = container.stdio()
    reader = open_output(stdio.stdout)
    await vm.tasks.create("reader", container.bundle, stdio, None)
    await vm.tasks.start("reader")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await vm.tasks.wait("reader")
    out = FifoText(stdio.stdout)
    os.close(reader)
    async with asyncio.timeout(BOUND):
        text = await out.all()
        assert (await vm.tasks.wait("reader")).code == 0
    assert text == b"".join(b"%d\n" % number for number in range(1, count + 1))
    await vm.tasks.delete("reader")


async def test_what_is_mounted_in_a_volume_later_is_seen_where_that_was_asked_for(vm: VmShim) -> None:
    """HostToContainer; and nothing that the shim unmounts is unmounted on the host."""
    volume = f"{vm.top}/propagated"
    os.makedirs(volume)
    perform(Tmpfs(volume, 1 << 20))
    set_propagation(volume, "shared")
    for name in ("before", "later"):
        os.makedirs(f"{volume}/{name}")
    perform(Tmpfs(f"{volume}/before", 1 << 20))
    Path(volume, "before/file").write_text("old\n")
    mounts = [
        {"destination": f"/{name}", "type": "bind", "source": volume, "options": ["rbind", *options]}
        for name, options in (("follows", ["rslave"]), ("alone", ["rprivate"]))
    ]
    container = vm.container("mounted", "/bin/sleep", "1000", mounts=mounts)
    await container.create(container.stdio())
    await vm.tasks.start("mounted")
    perform(Tmpfs(f"{volume}/later", 1 << 20))
    Path(volume, "later/file").write_text("new\n")
    said = await container.execute("a", "/bin/sh", "-c", "cat /follows/*/file; cat /alone/*/file")
    assert said[1] == b"old\nnew\nold\n"
    await vm.tasks.kill("mounted", 9)
    await vm.tasks.wait("mounted")
    await vm.tasks.delete("mounted")
    assert is_mountpoint(f"{volume}/before")
    assert is_mountpoint(f"{volume}/later")
    assert unmount_tree(volume) == 3


def told(vm: VmShim) -> ShimCalls:
    """What the guest says beside its tasks."""
    return ShimCalls(vm.client, "crib.vm.v1.Guest", lambda: BOUND)


async def on_disks(vm: VmShim, name: str, script: str, size: int = 24 << 20) -> VmContainer:
    """A container whose root is made of two layers and a disk."""
    container = vm.container(name, "/bin/sh", "-c", script)
    disk = await make_disk(Path(container.bundle), size)
    write_note(container.bundle, make_layers(Path(vm.top)), disk)
    return container


async def test_a_root_of_disks_has_its_layers_and_a_limit_and_nothing_of_it_is_left(vm: VmShim) -> None:
    qemu = int((await vm.facts())["qemu"])
    script = "cat /hidden; echo a:x:7:8::/:/bin/sh >>/etc/passwd; dd if=/dev/zero of=/big bs=1M count=5; cat"
    container = await on_disks(vm, "layered", script)
    out, _ = await container.create(stdio := container.stdio(stdin=True))
    await vm.tasks.start("layered")
    await out.until(b"of the top\n")
    code, said, _ = await container.execute("full", "/bin/dd", "if=/dev/zero", "of=/more", "bs=1M")
    assert (code, said) == (1, b""), "the disk is full"
    await container.execute("rm", "/bin/sh", "-c", "rm /more; sync")
    asked, guest = guest_pb2.WrittenRequest(id="layered"), told(vm)
    there = await guest.call("Written", asked, guest_pb2.WrittenResponse)
    assert 5 << 20 <= there.bytes < 6 << 20
    assert there.inodes == 4, "the root, etc, etc/passwd and big"
    assert 16 << 20 < there.size < 24 << 20
    users = await guest.call("Users", guest_pb2.UsersRequest(id="layered"), guest_pb2.UsersResponse)
    assert users.passwd == b"root:x:0:0::/:/bin/sh\na:x:7:8::/:/bin/sh\n"
    other = await on_disks(vm, "beside", "cat /hidden /new")
    assert (await other.run())[1] == b"of the top\n", "what one has written is its own"
    files = open_files(qemu)
    assert [files.count(path) for path in make_layers(Path(vm.top))] == [1, 1]
    assert f"{container.bundle}/disk" in files
    await container.execute("end", "/bin/sh", "-c", "rm /big")
    os.close(open_input(stdio.stdin))
    await vm.tasks.kill("layered", 9)
    await vm.tasks.wait("layered")
    await vm.tasks.delete("layered")
    assert not [path for path in open_files(qemu) if path.startswith(vm.top)]
    assert os.stat(f"{container.bundle}/disk").st_blocks * 512 < 2 << 20, "what is deleted is given back"
    assert used_inodes(f"{container.bundle}/disk") >= 3


async def test_a_block_volume_is_a_disk_of_the_guest(vm: VmShim) -> None:
    with block_device(Path(vm.top, "disk.img"), 8 << 20) as device:
        number = os.stat(device).st_rdev
        node = {"type": "b", "major": os.major(number), "minor": os.minor(number), "fileMode": 0o660}
        node |= {"uid": 0, "gid": 6}
        paths = ("/dev/data", "/dev/same")
        devices = [{"path": path, **node} for path in paths]
        rule = {"allow": True, "type": "b", "major": node["major"], "minor": node["minor"], "access": "rwm"}
        rules = {"devices": [{"allow": False, "access": "rwm"}, rule]}
        script = "ls -ln /dev/data; echo written | dd of=/dev/data conv=fsync; dd if=/dev/same bs=8 count=1"
        container = vm.container(
            "block", "/bin/sh", "-c", script, linux={"devices": devices}, resources=rules
        )
        volumes = [BlockVolume(path, device) for path in paths]
        write_note(container.bundle, (), "", *volumes)
        code, said, words = await container.run()
        assert (code, said[:4], said[-8:]) == (0, b"brw-", b"written\n"), (said, words)
        assert said.split()[2:4] == [b"0", b"6"]
        assert Path(device).read_bytes()[:8] == b"written\n"
        write_note(container.bundle, (), "", *(replace(one, read_only=True) for one in volumes))
        shutil.rmtree(f"{container.bundle}/io")
        code, said, words = await container.run()
        assert b"written\n" in said
        assert b"dd: " in words, "it is read-only now"
        container = vm.container("block", "/bin/true", linux={"devices": devices})
        with pytest.raises(NotBuilt, match=r"linux\.devices\[0\]: /dev/data"):
            await container.create(container.stdio())


async def test_a_disk_that_cannot_be_had_leaves_nothing(vm: VmShim) -> None:
    qemu = int((await vm.facts())["qemu"])
    container = await on_disks(vm, "none", "true")
    layers = make_layers(Path(vm.top))
    for note, words in (
        ((layers, f"{vm.top}/missing"), "missing"),
        ((layers, "/dev/null"), "plain file"),
        ((layers[::-1], layers[0]), "not taken as ext4"),
        (((f"{container.bundle}/disk",), f"{container.bundle}/disk"), "not taken as erofs"),
    ):
        write_note(container.bundle, *note)
        shutil.rmtree(f"{container.bundle}/io", ignore_errors=True)
        with pytest.raises(CribError, match=words):
            await container.create(container.stdio())
        assert not [path for path in open_files(qemu) if path.startswith(vm.top)]
