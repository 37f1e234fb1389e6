"""The port `VolumeKind`: in memory, and each kind as it is on this host.

A kind that has no snapshots, devices or sizes says so in its facts, and is not asked for them here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.volumes.block import BlockVolumes
from crib.backends.volumes.csi.volumes import CsiVolumes
from crib.backends.volumes.local import LocalVolumes
from crib.backends.volumes.tmpfs import TmpfsVolumes
from crib.host import mounts
from crib.host.mount_table import mounts_below
from crib.model.driver_status import DriverFigures
from crib.model.errors import CribError, InvalidRequest
from crib.model.paths import Paths
from crib.model.volume_settings import VolumeDriver
from crib.model.volumes import VolumeRecord, VolumeSpec
from crib.ports.volumes import VolumeKind
from tests.csi_driver import NAME, Options, TestDriver, serving
from tests.disks import can_grow_ext4
from tests.fakes.volumes import FakeVolumes
from tests.system.labs.volume_lab import VolumeLab, use_by

pytestmark = pytest.mark.root

SIZE = 16 << 20


def csi_volumes(paths: Paths) -> VolumeKind:
    """Of a driver that listens beside the data directory."""
    drivers = {NAME: VolumeDriver(f"{os.path.dirname(paths.data)}/csi.sock")}
    return CsiVolumes(paths, lambda: drivers, DriverFigures())


KINDS: dict[str, tuple[Callable[[Paths], VolumeKind], VolumeSpec]] = {
    "fake": (lambda paths: FakeVolumes(), VolumeSpec("local", capacity=SIZE)),
    "local": (LocalVolumes, VolumeSpec("local", capacity=SIZE)),
    "tmpfs": (TmpfsVolumes, VolumeSpec("tmpfs", capacity=SIZE)),
    "block": (BlockVolumes, VolumeSpec("block", capacity=SIZE)),
    "csi": (csi_volumes, VolumeSpec("csi", driver=NAME, capacity=SIZE)),
}


class KindLab(VolumeLab):
    """One kind, with a spec of a volume that it can make."""

    spec: VolumeSpec

    def write(self, path: str, text: str) -> None:
        """Into the volume that is published at this path."""
        if isinstance(self.kind, FakeVolumes):
            self.kind.there[path.split("/")[2]].files["file"] = text.encode()
        else:
            Path(path, "file").write_text(text)

    def read(self, path: str) -> str:
        """What was written; empty where nothing was."""
        if isinstance(self.kind, FakeVolumes):
            return self.kind.there[path.split("/")[2]].files.get("file", b"").decode()
        file = Path(path, "file")
        return file.read_text() if file.exists() else ""

    async def has(self, record: VolumeRecord) -> bool:
        """Whether anything is left of it."""
        if isinstance(self.kind, FakeVolumes):
            return record.id in self.kind.there
        paths = self.of(record)
        return bool(mounts_below(paths.passing)) or any(
            os.path.exists(path) for path in (paths.lasting, paths.stage, paths.file)
        )

    async def ready(self, record: VolumeRecord) -> VolumeRecord:
        """Staged, where the kind stages."""
        facts = await self.kind.facts(record.spec)
        return await self.staged(record) if facts.stages else record


@pytest.fixture(params=sorted(KINDS))
async def lab(request: pytest.FixtureRequest, private_root: Path) -> AsyncIterator[KindLab]:
    open_kind, spec = KINDS[request.param]
    paths = Paths(str(private_root / "data"), str(private_root / "state"))
    for path in (paths.volumes, paths.volume_snapshots, paths.volume_mounts):
        os.makedirs(path)
    mounts.make_private_root(paths.volume_mounts)
    lab = KindLab(open_kind(paths), paths)
    lab.spec = spec
    driver = TestDriver(private_root / "driver", Options())
    async with serving(driver, str(private_root / "csi.sock")):
        yield lab
    lab.close()
    assert driver.books.breaches() == []


async def test_it_is_ready(lab: KindLab) -> None:
    assert (await lab.kind.readiness()).ready


async def test_what_a_pod_writes_the_next_pod_reads(lab: KindLab) -> None:
    record = await lab.ready(await lab.new(lab.spec))
    one, two = use_by("one"), use_by("two")
    lab.write(await lab.kind.publish(record, one), "kept")
    assert lab.read(await lab.kind.publish(record, two)) == "kept"
    await lab.kind.unpublish(record, one)
    assert lab.read(await lab.kind.publish(record, two)) == "kept"


async def test_what_lasts_outlives_its_pods(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    facts = await lab.kind.facts(record.spec)
    use = use_by("one")
    staged = await lab.ready(record)
    lab.write(await lab.kind.publish(staged, use), "kept")
    await lab.kind.unpublish(staged, use)
    if facts.stages:
        record = await lab.unstaged(staged)
    assert lab.read(await lab.kind.publish(await lab.ready(record), use)) == ("kept" if facts.lasting else "")


async def test_nothing_is_left_of_a_volume_that_was_removed(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    staged = await lab.ready(record)
    use = use_by("one")
    await lab.kind.publish(staged, use)
    assert await lab.has(record)
    await lab.kind.unpublish(staged, use)
    await lab.kind.unstage(staged)
    await lab.kind.delete(record)
    assert not await lab.has(record)


async def test_each_step_may_come_again(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    made = await lab.kind.create(record, None)
    assert (made.handle, made.capacity) == (record.handle, record.capacity)
    use = use_by("one")
    staged = await lab.ready(record)
    staged = await lab.ready(record)
    path = await lab.kind.publish(staged, use)
    lab.write(path, "kept")
    assert await lab.kind.publish(staged, use) == path
    await lab.ready(record)
    assert lab.read(path) == "kept"
    for _ in range(2):
        await lab.kind.unpublish(staged, use)
    for _ in range(2):
        await lab.kind.unstage(staged)
    for _ in range(2):
        await lab.kind.delete(record)
    assert not await lab.has(record)


async def test_taking_away_what_was_never_there_is_fine(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    await lab.kind.unpublish(record, use_by("nobody"))
    await lab.kind.unstage(record)
    await lab.kind.delete(record)
    await lab.kind.unpublish(record, use_by("nobody"))
    await lab.kind.unstage(record)
    assert not await lab.has(record)


async def test_what_is_not_staged_is_not_published(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    if not (await lab.kind.facts(record.spec)).stages:
        await lab.kind.delete(record)
    with pytest.raises(CribError):
        await lab.kind.publish(record, use_by("one"))


async def test_a_volume_is_as_it_was_when_its_snapshot_was_made(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    if not (await lab.kind.facts(record.spec)).snapshots:
        pytest.skip("this kind has no snapshots")
    use = use_by("one")
    staged = await lab.ready(record)
    path = await lab.kind.publish(staged, use)
    lab.write(path, "then")
    if not isinstance(lab.kind, FakeVolumes):
        os.sync()
    kept = await lab.snapshot(staged)
    lab.write(path, "later")
    again = await lab.new(replace(lab.spec, snapshot=kept.id), kept, "again")
    assert lab.read(await lab.kind.publish(await lab.ready(again), use)) == "then"
    assert lab.read(path) == "later"
    for _ in range(2):
        await lab.kind.delete_snapshot(kept)
    assert lab.read(await lab.kind.publish(await lab.ready(again), use)) == "then"
    for one in (await lab.ready(again), staged):
        await lab.kind.unpublish(one, use)
        await lab.kind.unstage(one)


async def test_it_tells_how_full_a_volume_is(lab: KindLab) -> None:
    staged = await lab.ready(await lab.new(lab.spec))
    lab.write(await lab.kind.publish(staged, use_by("one")), "x" * 100_000)
    if not isinstance(lab.kind, FakeVolumes):
        os.sync()
    usage = await lab.kind.usage(staged)
    assert usage.used is not None
    assert usage.total is not None
    assert 100_000 <= usage.used <= usage.total


async def test_it_gets_larger_while_a_pod_uses_it(lab: KindLab) -> None:
    facts = await lab.kind.facts(lab.spec)
    if not facts.expands:
        pytest.skip("this kind cannot grow")
    if lab.spec.kind == "block" and not can_grow_ext4():
        pytest.skip("this host lets nobody grow a mounted ext4")
    staged = await lab.ready(await lab.new(lab.spec))
    lab.write(await lab.kind.publish(staged, use_by("one")), "kept")
    before = (await lab.kind.usage(staged)).total
    for _ in range(2):
        assert await lab.kind.expand(staged, 2 * SIZE) == 2 * SIZE
    after = (await lab.kind.usage(staged)).total
    assert before is not None
    assert after is not None
    assert after > before
    assert lab.read(await lab.kind.publish(staged, use_by("one"))) == "kept"


async def test_a_check_of_what_is_well_finds_nothing(lab: KindLab) -> None:
    record = await lab.new(lab.spec)
    assert list(await lab.kind.check(record)) == []
    staged = await lab.ready(record)
    path = await lab.kind.publish(staged, use_by("one"))
    use = replace(use_by("one"), path=path)
    assert list(await lab.kind.check(replace(staged, uses=(use,)))) == []


async def test_a_parameter_that_it_does_not_know_is_refused_by_its_name(lab: KindLab) -> None:
    if lab.spec.driver:
        pytest.skip("parameters of a storage driver are known to that driver only")
    with pytest.raises(InvalidRequest) as refused:
        await lab.kind.check_spec(replace(lab.spec, parameters={"wrong": "1"}))
    assert refused.value.field == "parameters.wrong"
