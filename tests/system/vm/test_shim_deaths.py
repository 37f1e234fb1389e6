"""Whatever of a VM dies, all of it ends, every end is told, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from crib.backends.shim.bootstrap import read_deleted
from crib.backends.shim.nouns import ProcessStatus, ShimLost
from crib.host.pidfds import open_pidfd, wait_pidfd
from crib.model.errors import CribError
from tests.system.labs.vm_disks import make_disk, make_layers, open_files, write_note
from tests.system.labs.vm_shims import BOUND, POD, VmShim, programs_of, vm_shim

pytestmark = [pytest.mark.root, pytest.mark.system]


async def running(vm: VmShim) -> tuple[int, int, int]:
    """A pod with a container that runs on disks: pids of shim, qemu and virtiofsd."""
    qemu = await vm.boot()
    container = vm.container("one", "/bin/sleep", "1000", annotations={"io.kubernetes.cri.sandbox-id": POD})
    disk = await make_disk(Path(container.bundle), 24 << 20)
    write_note(container.bundle, make_layers(Path(vm.top)), disk)
    await container.create(container.stdio())
    await vm.tasks.start("one")
    assert disk in open_files(qemu)
    return vm.shim, qemu, int((await vm.facts())["virtiofsd"])


async def all_gone(pids: tuple[int, ...]) -> None:
    for pid in pids:
        try:
            pidfd = open_pidfd(pid)
        except ProcessLookupError:
            continue
        assert await wait_pidfd(pidfd, BOUND), f"{pid} still runs"
        os.close(pidfd)


@pytest.mark.parametrize("victim", [1, 2], ids=["qemu", "virtiofsd"])
async def test_with_a_program_of_the_vm_all_of_it_ends(image: str, victim: int) -> None:
    async with vm_shim(image) as vm:
        pids = await running(vm)
        waiting = asyncio.ensure_future(vm.tasks.wait("one"))
        os.kill(pids[victim], signal.SIGKILL)
        async with asyncio.timeout(BOUND):
            assert (await waiting).code == 137
            await vm.client.gone()
        await all_gone(pids)
        assert not os.path.exists(vm.socket)
        assert not os.path.exists(f"{vm.bundle(POD)}/share")


async def test_with_the_shim_its_programs_die_and_delete_takes_the_rest(image: str) -> None:
    async with vm_shim(image) as vm:
        pids = await running(vm)
        waiting = asyncio.ensure_future(vm.tasks.wait("one"))
        os.kill(vm.shim, signal.SIGKILL)
        with pytest.raises(ShimLost):
            await waiting
        await all_gone(pids)
        assert read_deleted(await vm.delete(POD)).code == 137
        assert not os.path.exists(vm.socket)
        assert not os.path.exists(f"{vm.bundle(POD)}/share")
        await vm.delete(POD)


async def test_delete_of_a_container_leaves_a_pod_that_runs_alone(image: str) -> None:
    async with vm_shim(image) as vm:
        await running(vm)
        assert read_deleted(await vm.delete("one")).code == 137
        assert read_deleted(await vm.delete(POD)).code == 137
        assert (await vm.tasks.state("one")).status is ProcessStatus.RUNNING
        await vm.tasks.kill("one", 9)
        await vm.tasks.wait("one")
        await vm.tasks.delete("one")
        await vm.stop()


async def test_a_guest_whose_kernel_dies_ends_the_pod(image: str) -> None:
    async with vm_shim(image) as vm:
        pids = await running(vm)
        crash = vm.container("two", "/bin/sh", "-c", "echo c > /proc/sysrq-trigger")
        await crash.create(crash.stdio())
        waiting = [asyncio.ensure_future(vm.tasks.wait(name)) for name in ("one", "two")]
        with contextlib.suppress(CribError):  # it may answer before the kernel dies
            await vm.tasks.start("two")
        async with asyncio.timeout(BOUND):
            assert [(await one).code for one in waiting] == [137, 137]
            await vm.client.gone()
        await all_gone(pids)


async def test_a_shim_without_a_vm_ends_when_it_is_told_to(image: str) -> None:
    async with vm_shim(image) as vm:
        await vm.begin()
        await vm.tasks.shutdown(POD)
        async with asyncio.timeout(BOUND):
            await vm.client.gone()
        await all_gone((vm.shim,))
        assert programs_of((vm.shim,)) == []
