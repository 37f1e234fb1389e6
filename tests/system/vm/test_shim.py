"""A VM pod's shim, from a program's start to its end: what a client of shims sees of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from crib.host.cgroups import Cgroups, detect_layout
from crib.model.errors import Broken, NotFound
from tests.system.labs.vm_shims import BOUND, POD, programs_of, vm_shim

pytestmark = [pytest.mark.root, pytest.mark.system]

NOBODY = 65534
STAGES = ["shim", "virtiofsd", "qemu", "kernel", "init", "agent", "configure"]


def charged(cgroup: str) -> int:
    """Bytes."""
    layout = detect_layout()
    name = "memory.current" if layout.mode == "v2" else "memory.usage_in_bytes"
    return int(Cgroups(layout).read(cgroup, name))


def memory_of(pid: int) -> int:
    """Bytes that a process has touched: its own, and those of the guest."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


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
        there = Cgroups(detect_layout()).pids(vm.cgroup)
        assert set(pids) < set(there), "and the part of virtiofsd that does the work"
        assert len(there) == 4
        assert charged(vm.cgroup) > 0.9 * memory_of(qemu), "also of what it used first"
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


@pytest.mark.nightly
async def test_a_pod_boots_on_the_other_machine_with_more_of_everything(image: str) -> None:
    async with vm_shim(image, options={"machine": "q35"}) as vm:
        await vm.boot(**{"crib.vm/cpus": "2", "crib.vm/memory": str(512 << 20)})
        facts = await vm.facts()
        assert (facts["cpus"], facts["memory"]) == ("2", str(512 << 20))
        code, out, _ = await vm.container("one", "/bin/busybox", "nproc").run()
        assert (code, out) == (0, b"2\n")
        await vm.stop()
