"""Volumes of kind `block` whose calls are cut off, and whose disks fail or do not answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from crib.backends.volumes import block, disks
from crib.backends.volumes.block import BlockVolumes
from crib.host import disk_filesystems, mounts
from crib.host.loop_devices import find_loops
from crib.host.mount_table import mounts_below
from crib.host.tree_copies import CopyBudget
from crib.model.errors import CribError, Unavailable
from crib.model.paths import Paths
from crib.model.volumes import VolumeRecord, VolumeSpec
from tests.crash.power import PowerDisk, plugged_in
from tests.system.labs.volume_lab import VolumeLab, use_by

pytestmark = pytest.mark.root

T = TypeVar("T")
SIZE = 8 << 20
SPEC = VolumeSpec("block", capacity=SIZE)


class Cut(Exception):
    """The daemon was killed here."""


class CutOff(BlockVolumes):
    """Steps are done, until there is none left: what comes then is neither begun nor told."""

    left = 1 << 30
    done = 0

    async def _step(
        self, record: VolumeRecord, what: str, work: Callable[..., T], *args: object, seconds: float = 0
    ) -> T:
        self._count()
        return await super()._step(record, what, work, *args, seconds=seconds)

    async def _copy(self, record: VolumeRecord, budget: CopyBudget, work: Callable[[], object]) -> None:
        self._count()
        await super()._copy(record, budget, work)

    def _count(self) -> None:
        if not self.left:
            raise Cut
        self.left -= 1
        self.done += 1


@pytest.fixture
def paths(private_root: Path) -> Paths:
    paths = Paths(str(private_root / "data"), str(private_root / "state"))
    os.makedirs(paths.volume_mounts)
    mounts.make_private_root(paths.volume_mounts)
    return paths


@pytest.fixture
def lab(paths: Paths) -> Iterator[VolumeLab]:
    lab = VolumeLab(CutOff(paths), paths)
    yield lab
    lab.close()


async def life(lab: VolumeLab, record: VolumeRecord) -> None:
    """From nothing to nothing, also of a volume that got so far already."""
    use, kind = use_by("pod"), lab.kind
    record = replace(record, capacity=(await kind.create(record, None)).capacity)
    record = await lab.staged(record)
    await kind.publish(record, use)
    if record.spec.block:
        await kind.expand(record, 2 * SIZE)
    await kind.unpublish(record, use)
    record = await lab.unstaged(record)
    await kind.delete(record)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, block=True)], ids=["files", "raw"])
async def test_what_was_cut_off_at_any_step_is_completed_by_the_same_calls(
    lab: VolumeLab, spec: VolumeSpec
) -> None:
    kind = lab.kind
    assert isinstance(kind, CutOff)
    await life(lab, lab.record(spec))
    for steps in range(kind.done):
        record = lab.record(spec)
        kind.left = steps
        with pytest.raises(Cut):
            await life(lab, record)
        kind.left = 1 << 30
        await life(lab, record)
        assert not os.path.lexists(lab.of(record).lasting)
        assert mounts_below(lab.paths.volume_mounts)[:-1] == []
        assert find_loops(lab.of(record).file) == []


async def test_a_snapshot_that_was_cut_off_is_made_again_or_goes(lab: VolumeLab) -> None:
    kind = lab.kind
    assert isinstance(kind, CutOff)
    record = await lab.staged(await lab.new(SPEC))
    before = kind.done
    await lab.snapshot(record)
    for steps in range(kind.done - before):
        kind.left = steps
        with pytest.raises(Cut):
            await lab.snapshot(record)
        kind.left = 1 << 30
        await lab.snapshot(record)
        Path(lab.of(record).stage, "file").write_text("goes on")
    await lab.unstaged(record)


async def test_a_volume_that_is_cancelled_while_it_is_formatted_is_made_again(lab: VolumeLab) -> None:
    record, begun = lab.record(SPEC), asyncio.Event()

    async def never(fs_type: str, path: str, owner: str, *, is_file: bool) -> None:
        begun.set()
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_filesystems, "make", never)
        making = asyncio.ensure_future(lab.kind.create(record, None))
        await begun.wait()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    assert os.listdir(lab.of(record).lasting) == ["file" + disks.PARTIAL]
    await life(lab, record)


async def test_a_disk_that_lost_its_blocks_is_told_and_let_go(lab: VolumeLab) -> None:
    """As a device that is gone: all that is not in memory fails."""
    record = await lab.staged(await lab.new(SPEC))
    use = use_by("pod")
    path = Path(await lab.kind.publish(record, use))
    os.truncate(lab.of(record).file, 0)
    with pytest.raises(OSError, match=r"error|full|Read-only"):
        write_much(path)
    (found,) = await lab.kind.check(record)
    assert "has 0 bytes" in found.problem
    await lab.kind.unpublish(record, use)
    record = await lab.unstaged(record)
    with pytest.raises(CribError):
        await lab.staged(record)
    await lab.kind.delete(record)


def write_much(path: Path) -> None:
    for number in range(8):
        with (path / str(number)).open("wb") as file:
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())


@pytest.fixture
def power(private_root: Path) -> Iterator[PowerDisk]:
    (private_root / "power").mkdir()
    with plugged_in(private_root / "power", private_root / "log") as disk:
        yield disk


async def test_a_disk_that_does_not_answer_holds_nobody_up(
    lab: VolumeLab, power: PowerDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies on a file system whose server stands still."""
    source = power.place / "disk"
    source.touch()
    os.truncate(source, SIZE)
    record = await lab.staged(await lab.new(VolumeSpec("block", source=str(source))))
    monkeypatch.setattr(block, "STEP_SECONDS", 0.3)
    power.stop()
    try:
        for call in (lab.kind.stage, lab.kind.check):
            with pytest.raises(Unavailable, match=f"volume default/data: looking at {source}"):
                await call(record)
    finally:
        power.go_on()
    monkeypatch.undo()
    await lab.unstaged(record)
