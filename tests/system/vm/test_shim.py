"""A VM pod's shim, from a program's start to its end: what a client of shims sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import pytest

from crib.backends.shim.events import EventsServer
from crib.backends.shim.fifo_ends import has_reader, open_input, open_output
from crib.backends.shim.nouns import ProcessStatus
from crib.model.errors import Broken, NotBuilt, NotFound, WrongState
from crib.model.ids import ContainerId
from tests.system.labs.vm_shims import BOUND, POD, FifoText, VmContainer, programs_of, vm_shim

pytestmark = [pytest.mark.root, pytest.mark.system]

NOBODY = 65534
STAGES = ["shim", "virtiofsd", "qemu", "kernel", "init", "agent", "configure"]


async def test_a_pod_boots_runs_containers_and_leaves_nothing(image: str) -> None:
    async with vm_shim(image) as vm:
        qemu = await vm.boot()
        facts = await vm.facts()
        stages = json.loads(facts["stages"])
        assert [one["name"] for one in stages] == STAGES
        assert all(one["began"] <= one["ended"] for one in stages)
        assert int(facts["qemu"]) == qemu
        pids = (vm.shim, qemu, int(facts["virtiofsd"]))
        assert len(programs_of(pids)) == 3
        assert os.stat(f"/proc/{qemu}").st_uid == NOBODY
        container = vm.container("one", "/bin/sh", "-c", "echo out; echo err >&2; hostname; exit 3")
        assert await container.run() == (3, b"out\nvm-pod\n", b"err\n")
        with pytest.raises(NotFound):
            await vm.tasks.state("one")
        assert not os.path.exists(f"{vm.bundle(POD)}/share/c/one")
        await vm.stop()
        assert programs_of(pids) == []
        assert not os.path.exists(vm.socket)
        assert not os.path.exists(f"{vm.bundle(POD)}/share")


async def test_states_follow_a_container_through_its_life(image: str) -> None:
    async with vm_shim(image) as vm:
        qemu = await vm.boot()
        container = vm.container("one", "/bin/sleep", "1000", score=300)
        out, _ = await container.create(stdio := container.stdio())
        state = await vm.tasks.state("one")
        assert (state.status, state.pid, state.stdio) == (ProcessStatus.CREATED, qemu, stdio)
        await vm.tasks.start("one")
        assert (await vm.tasks.state("one")).status is ProcessStatus.RUNNING
        script = "echo in; cat /proc/self/oom_score_adj; exit 5"
        assert await container.execute("x", "/bin/sh", "-c", script) == (5, b"in\n300\n", b"")
        await vm.tasks.pause("one")
        assert (await vm.tasks.state("one")).status is ProcessStatus.PAUSED
        await vm.tasks.resume("one")
        with pytest.raises(WrongState):
            await vm.tasks.delete("one")
        waiting = asyncio.ensure_future(vm.tasks.wait("one"))
        await vm.tasks.kill("one", 15, everyone=True)
        await vm.tasks.kill("one", 9)
        async with asyncio.timeout(BOUND):
            ended = await waiting
            assert await out.all() == b""
        assert ended.code in (137, 143)
        assert (await vm.tasks.state("one")).status is ProcessStatus.STOPPED
        assert (await vm.tasks.delete("one")).code == ended.code
        await vm.stop()


async def test_bytes_go_through_whole_in_both_directions(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.boot()
        container = vm.container("one", "/bin/sh", "-c", "cat; echo end >&2")
        stdio = container.stdio(stdin=True)
        out, err = await container.create(stdio)
        fd = open_input(stdio.stdin)
        await vm.tasks.start("one")
        sent = os.urandom(3 << 20)
        await asyncio.to_thread(write_all, fd, sent)
        await vm.tasks.close_io("one")
        os.close(fd)
        async with asyncio.timeout(BOUND):
            assert (await vm.tasks.wait("one")).code == 0
            assert await out.all() == sent
            assert await err.all() == b"end\n"
        await vm.tasks.delete("one")
        await vm.stop()


def write_all(fd: int, data: bytes) -> None:
    os.set_blocking(fd, True)
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


async def test_a_terminal_has_a_size_and_takes_lines(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.boot()
        container = vm.container("one", "/bin/sh", terminal=True)
        stdio = container.stdio(stdin=True, terminal=True)
        out, _ = await container.create(stdio)
        fd = open_input(stdio.stdin)
        await vm.tasks.start("one")
        await has_reader(fd, asyncio.get_running_loop().create_future())
        await vm.tasks.resize_pty("one", 93, 27)
        os.write(fd, b"stty size; tty\n")
        await out.until(b"\r\n27 93\r\n")
        os.write(fd, b"exit 4\n")
        async with asyncio.timeout(BOUND):
            assert (await vm.tasks.wait("one")).code == 4
        os.close(fd)
        await vm.tasks.delete("one")
        await vm.stop()


async def test_volumes_of_the_host_are_seen_as_they_change(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.boot()
        volume, secret = f"{vm.top}/volume", f"{vm.top}/secret"
        os.makedirs(f"{volume}/below")
        Path(volume, "there").write_text("before\n")
        Path(secret).write_text("whisper\n")
        mounts = [
            {"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rw"]},
            {"destination": "/shut", "type": "bind", "source": volume, "options": ["bind", "ro"]},
            {"destination": "/secret", "type": "bind", "source": secret, "options": ["bind", "ro"]},
        ]
        container = vm.container("one", "/bin/sleep", "1000", mounts=mounts)
        await container.create(container.stdio())
        await vm.tasks.start("one")
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
        await vm.tasks.kill("one", 9)
        await vm.tasks.wait("one")
        await vm.tasks.delete("one")
        assert sorted(os.listdir(volume)) == ["below", "fifo", "made", "there"]
        await vm.stop()


async def test_a_guest_cannot_write_into_the_tree_that_it_is_given(image: str) -> None:
    """What the shim makes there by its path could be led elsewhere by a link otherwise."""
    async with vm_shim(image) as vm:
        await vm.boot()
        container = vm.container("one", "/bin/sleep", "1000")
        await container.create(container.stdio())
        share = f"{vm.bundle(POD)}/share"
        assert os.path.exists(f"{share}/c/one/config.json")
        assert os.listdir(f"{share}/c/one/rootfs") == [], "what is bound there is in no table of the host"
        assert share not in Path("/proc/self/mountinfo").read_text()
        view = f"/proc/{(await vm.facts())['virtiofsd']}/root"
        assert os.path.exists(f"{view}/c/one/rootfs/bin/busybox")
        with pytest.raises(OSError, match="Read-only"):
            os.symlink("/etc", f"{view}/c/link")
        Path(f"{view}/c/one/rootfs/new").touch()
        await vm.tasks.kill("one", 9)
        await vm.tasks.wait("one")
        await vm.tasks.delete("one")
        await vm.stop()


async def test_what_a_vm_cannot_give_is_refused_by_name_and_leaves_nothing(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.boot()
        mounts = [{"destination": "/m", "type": "bind", "source": vm.socket, "options": ["rbind"]}]
        container = vm.container("one", "/bin/true", mounts=mounts)
        with pytest.raises(NotBuilt, match=r"mounts\[4\].*socket"):
            await container.create(container.stdio())
        missing = vm.container("two", "/bin/nothing-here")
        with pytest.raises(Broken, match="nothing-here"):
            await created_and_started(missing)
        with contextlib.suppress(NotFound):
            await vm.tasks.delete("two")
        assert not os.path.exists(f"{vm.bundle(POD)}/share/c/one")
        await vm.stop()


async def created_and_started(container: VmContainer) -> None:
    """Which of the two fails is the runtime's choice."""
    await container.create(container.stdio())
    await container.vm.tasks.start(container.name)


async def test_a_container_of_the_pod_gets_the_pods_shim(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.boot()
        container = vm.container("one", "/bin/true", annotations={"io.kubernetes.cri.sandbox-id": POD})
        assert await vm.run_start("one", container.bundle) == vm.socket
        await vm.stop()


async def test_out_of_memory_in_a_container_is_told_before_its_end(image: str) -> None:
    async with vm_shim(image) as vm:
        events = EventsServer(f"{vm.top}/events")
        await events.open()
        await vm.boot()
        limits = {"memory": {"limit": 24 << 20, "swap": 24 << 20}}
        eat = "x=a; while true; do x=$x$x; done"
        container = vm.container("one", "/bin/sh", "-c", eat, resources=limits)
        await container.create(container.stdio())
        await vm.tasks.start("one")
        async with asyncio.timeout(BOUND):
            assert (await vm.tasks.wait("one")).code == 137
        assert events.was_killed(ContainerId("one"))
        await vm.tasks.delete("one")
        await vm.stop()
        events.close()


async def test_options_that_are_not_understood_are_named(image: str) -> None:
    for options, words in (
        ({"memory": 1}, "memory must be 96"),
        ({"colour": "red"}, "colour is not known"),
        ({"machine": "pc"}, "machine must be microvm or q35"),
        ({"qemu": "/nowhere/qemu"}, "/nowhere/qemu"),
        ({"image": "/nowhere"}, "/nowhere/kernel"),
    ):
        async with vm_shim(image, options=options) as vm:
            await vm.begin()
            with pytest.raises(Broken, match=words):
                await vm.create()
            vm.end()


async def test_a_guest_that_does_not_come_up_says_how_far_it_came(image: str, tmp_path: Path) -> None:
    for name in ("kernel", "initrd", "guest.erofs"):
        os.symlink(f"{image}/{name}", tmp_path / name)
    (tmp_path / "guest.erofs").unlink()
    (tmp_path / "guest.erofs").write_bytes(bytes(1 << 20))
    async with vm_shim(str(tmp_path)) as vm:
        await vm.begin()
        await vm.create()
        with pytest.raises(Exception, match=r"(?s)did not start.*root was not mounted"):
            await vm.start()
        async with asyncio.timeout(BOUND):
            await vm.client.gone()


async def test_output_waits_for_a_reader_that_comes_back(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.boot()
        count = 200_000
        container = vm.container("one", "/bin/seq", str(count))
        stdio = container.stdio()
        reader = open_output(stdio.stdout)
        await vm.tasks.create("one", container.bundle, stdio, None)
        await vm.tasks.start("one")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await vm.tasks.wait("one")
        out = FifoText(stdio.stdout)
        os.close(reader)
        async with asyncio.timeout(BOUND):
            text = await out.all()
            assert (await vm.tasks.wait("one")).code == 0
        assert text == b"".join(b"%d\n" % number for number in range(1, count + 1))
        await vm.tasks.delete("one")
        await vm.stop()
