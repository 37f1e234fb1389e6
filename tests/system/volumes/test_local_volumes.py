"""Volumes of kind `local` where sizes are limits: on disks with project quotas, which few kernels have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.volumes.local import LocalVolumes
from crib.client import volumes
from crib.client.errors import ClientError
from crib.host import quotas
from crib.model.errors import CribError
from crib.model.paths import Paths
from crib.model.volumes import VolumeSpec
from crib.stubs.node.v1 import node_pb2 as node
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.disks import fill, mounted_disk, too_much
from tests.system.labs.daemon import Cribd, running_cribd
from tests.system.labs.volume_lab import VolumeLab, use_by

pytestmark = [pytest.mark.root, pytest.mark.system]

LIMIT = 4 << 20
SMALL = VolumeSpec("local", capacity=LIMIT)
REQUIRED = replace(SMALL, parameters={"quota": "required"})


@pytest.fixture(params=["ext4 with quotas", "xfs"])
def disk(request: pytest.FixtureRequest, private_root: Path) -> Iterator[Path]:
    with mounted_disk(private_root, request.param, "prjquota") as mounted:
        yield mounted


@pytest.fixture
def lab(disk: Path, private_root: Path) -> Iterator[VolumeLab]:
    paths = Paths(str(disk / "data"), str(private_root / "state"))
    for path in (paths.volumes, paths.volume_snapshots):
        os.makedirs(path)
    lab = VolumeLab(LocalVolumes(paths), paths)
    yield lab
    lab.close()


async def test_a_size_is_a_limit_that_grows_and_goes_with_the_volume(lab: VolumeLab) -> None:
    facts = await lab.kind.facts(SMALL)
    assert (facts.sizes, facts.expands) == ("", True)
    record = await lab.new(REQUIRED)
    assert record.capacity == LIMIT
    path = await lab.kind.publish(record, use_by("one"))
    assert too_much(fill(f"{path}/file", 2 * LIMIT))
    assert LIMIT // 2 < os.stat(f"{path}/file").st_size <= LIMIT
    usage = await lab.kind.usage(record)
    assert usage.total == LIMIT
    assert usage.available is not None
    assert usage.available < LIMIT // 2
    assert await lab.kind.check(record) == []
    record = replace(record, capacity=await lab.kind.expand(record, 4 * LIMIT))
    assert fill(f"{path}/file", 2 * LIMIT) == ""
    assert await lab.kind.check(record) == []
    quotas.set_limit(path, LIMIT)
    (finding,) = await lab.kind.check(record)
    assert f"its limit is {LIMIT} bytes, not {4 * LIMIT}" in finding.problem
    await lab.kind.delete(record)
    assert not os.path.exists(lab.of(record).lasting)


async def test_what_comes_from_a_snapshot_counts_as_the_new_volumes(lab: VolumeLab) -> None:
    record = await lab.new(replace(SMALL, capacity=4 * LIMIT))
    content = os.urandom(2 * LIMIT)  # zeros would become a hole
    Path(await lab.kind.publish(record, use_by("one")), "file").write_bytes(content)
    copy = await lab.new(replace(SMALL, capacity=4 * LIMIT), await lab.snapshot(record), name="copy")
    path = await lab.kind.publish(copy, use_by("two"))
    assert Path(path, "file").read_bytes() == content
    used = quotas.usage(path)
    assert used is not None
    assert used.bytes >= 2 * LIMIT
    assert used.max_bytes == 4 * LIMIT


async def test_a_volume_without_a_size_gets_a_limit_while_it_is_empty(lab: VolumeLab) -> None:
    record = await lab.new(VolumeSpec("local"))
    assert await lab.kind.expand(record, LIMIT) == LIMIT
    other = await lab.new(VolumeSpec("local"), name="other")
    path = await lab.kind.publish(other, use_by("one"))
    assert fill(f"{path}/file", LIMIT) == ""
    with pytest.raises(CribError, match="empty"):
        await lab.kind.expand(other, LIMIT)


async def test_a_container_is_told_when_its_volume_is_full(disk: Path, tmp_path: Path) -> None:
    class OnDisk(Cribd):
        """Its data directory is there."""

        def __init__(self, **settings: str | bool) -> None:
            super().__init__(**settings)  # type: ignore[arg-type]
            text = self.config.read_text().replace(f'"{self.data}"', f'"{disk}/data"')
            self.config.write_text(text)
            self.data = disk / "data"

    with running_cribd(kind=OnDisk, extra="[images]\nmin_free = 0\n") as cribd:
        async with cribd.story() as cri:
            spec = node.VolumeSpec(kind="local", capacity=LIMIT)
            wanted = node.WantedVolume(volume="data", name="data", spec=spec)
            request = node.PublishVolumesRequest(
                pod_uid="uid-one",
                pod_namespace="default",
                pod_name="one",
                pod_files=str(tmp_path),
                volumes=[wanted],
            )
            (one,) = await volumes.publish(cri.connection, request)
            pod = await cri.run_pod("one")
            mounts = [pb.Mount(container_path="/data", host_path=one.path, selinux_relabel=True)]
            container = await cri.run_container(pod, "sleep", "60", mounts=mounts)
            write = f"dd if=/dev/zero of=/data/file bs=64k count={2 * LIMIT >> 16} conv=fsync 2>&1"
            said = await cri.sh(container, f"{write} || true")
            assert too_much(said)
            await volumes.resize(cri.connection, "data", 4 * LIMIT)
            await cri.sh(container, write)
            with pytest.raises(ClientError, match="smaller"):
                await volumes.resize(cri.connection, "data", LIMIT)
            await cri.remove_pod(pod)
            await volumes.unpublish(cri.connection, "uid-one")
            await volumes.remove(cri.connection, "data")
            assert os.listdir(disk / "data/volumes") == []
