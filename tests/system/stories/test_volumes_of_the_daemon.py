"""Volumes of a real cribd, by its own calls: given to pods, kept over kills, checked, wiped."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import volumes
from crib.client.errors import NotFound, WrongState
from crib.host.mounts import unmount_tree
from crib.stubs.node.v1.node_pb2 import (
    PublishedVolume,
    PublishVolumesRequest,
    VolumeSpec,
    WantedVolume,
)
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

SIZE = 8 << 20


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection
        for uid in ("uid-one", "uid-two"):
            await volumes.unpublish(connection.connection, uid)
        async for volume in volumes.list_volumes(connection.connection):
            await volumes.remove(connection.connection, f"{volume.namespace}/{volume.name}")


@pytest.fixture
def mortal() -> Iterator[Cribd]:
    """One that may be killed."""
    with running_cribd() as daemon:
        yield daemon


def asked(pod: str, files: Path, *wanted: WantedVolume) -> PublishVolumesRequest:
    return PublishVolumesRequest(
        pod_uid=f"uid-{pod}", pod_namespace="default", pod_name=pod, pod_files=str(files), volumes=wanted
    )


def of_kind(kind: str, name: str, **spec: object) -> WantedVolume:
    return WantedVolume(volume=name, name=name, spec=VolumeSpec(kind=kind, **spec))  # type: ignore[arg-type]


def of_each_kind() -> list[WantedVolume]:
    return [
        of_kind("local", "disk"),
        of_kind("tmpfs", "memory", capacity=SIZE),
        of_kind("block", "file", capacity=SIZE),
    ]


def mounts_of(published: list[PublishedVolume]) -> list[pb.Mount]:
    return [pb.Mount(container_path=f"/{one.volume}", host_path=one.path) for one in published]


async def test_what_one_pod_writes_the_next_one_reads_also_after_a_kill(
    mortal: Cribd, tmp_path: Path
) -> None:
    async with mortal.connect() as cri:
        published = await volumes.publish(cri.connection, asked("one", tmp_path, *of_each_kind()))
        assert [one.created for one in published] == [True] * 3
        pod = await cri.run_pod("one")
        writes = "for place in disk memory file; do echo kept > /$place/a; done"
        container = await cri.run_container(pod, "sh", "-c", writes, mounts=mounts_of(published))
        await cri.exited(container)
    mortal.kill()
    mortal.start()
    async with mortal.connect() as cri:
        again = await volumes.publish(cri.connection, asked("two", tmp_path, *of_each_kind()))
        assert [one.volume_id for one in again] == [one.volume_id for one in published]
        assert [Path(one.path, "a").read_text() for one in again] == ["kept\n"] * 3
        with pytest.raises(WrongState, match="volume default/disk is used by pod default/one"):
            await volumes.remove(cri.connection, "disk")


async def test_nothing_is_mounted_once_no_pod_uses_a_volume(cri: Cri, cribd: Cribd, tmp_path: Path) -> None:
    before = cribd.leftovers().mounts
    await volumes.publish(cri.connection, asked("one", tmp_path, *of_each_kind()))
    assert cribd.leftovers().mounts > before
    await volumes.unpublish(cri.connection, "uid-one")
    assert cribd.leftovers().mounts == before


async def test_a_volume_shows_what_it_is_and_how_full(cri: Cri, tmp_path: Path) -> None:
    (one,) = await volumes.publish(
        cri.connection, asked("one", tmp_path, of_kind("tmpfs", "memory", capacity=SIZE))
    )
    Path(one.path, "a").write_bytes(bytes(1 << 20))
    usage = await volumes.usage(cri.connection, "memory")
    assert (usage.total_bytes, usage.used_bytes) == (SIZE, 1 << 20)
    shown = await volumes.inspect(cri.connection, "memory")
    assert (shown.volume.spec.kind, shown.volume.stage, len(shown.volume.uses)) == ("tmpfs", "staged", 1)
    assert "outlive a boot" not in shown.can
    assert (await volumes.resize(cri.connection, "memory", 2 * SIZE)).capacity == 2 * SIZE
    assert (await volumes.usage(cri.connection, "memory")).total_bytes == 2 * SIZE
    (found,) = [row async for row in volumes.list_volumes(cri.connection, path=f"{one.path}/a")]
    assert found.id == one.volume_id
    with pytest.raises(NotFound):
        await volumes.inspect(cri.connection, "nothing")


async def test_files_go_into_an_archive_and_another_volume_begins_as_it(cri: Cri, tmp_path: Path) -> None:
    (one,) = await volumes.publish(cri.connection, asked("one", tmp_path, of_kind("local", "disk")))
    Path(one.path, "a").write_text("kept")
    os.chown(Path(one.path, "a"), 1000, 1000)
    archive = tmp_path / "disk.tar"
    size = await volumes.export(cri.connection, "disk", str(archive))
    assert size == archive.stat().st_size
    made = await volumes.import_files(cri.connection, "again", VolumeSpec(kind="local"), str(archive))
    (two,) = await volumes.publish(
        cri.connection, asked("two", tmp_path, WantedVolume(volume="again", name="again"))
    )
    assert two.volume_id == made.volume.id
    copy = Path(two.path, "a")
    assert (copy.read_text(), copy.stat().st_uid) == ("kept", 1000)


async def test_a_snapshot_is_a_volume_again(cri: Cri, tmp_path: Path) -> None:
    (one,) = await volumes.publish(cri.connection, asked("one", tmp_path, of_kind("local", "disk")))
    Path(one.path, "a").write_text("then")
    await volumes.snapshot(cri.connection, "disk", "monday")
    Path(one.path, "a").write_text("later")
    (two,) = await volumes.publish(
        cri.connection, asked("two", tmp_path, of_kind("local", "again", snapshot="monday"))
    )
    assert Path(two.path, "a").read_text() == "then"
    assert [kept.name async for kept in volumes.list_snapshots(cri.connection)] == ["monday"]
    await volumes.remove_snapshot(cri.connection, "monday")


async def test_check_finds_what_is_no_longer_mounted_and_a_pod_that_is_gone(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    files = tmp_path / "pods" / "uid-one"
    files.mkdir(parents=True)
    (one,) = await volumes.publish(
        cri.connection, asked("one", files, of_kind("tmpfs", "memory", capacity=SIZE))
    )
    assert [found async for found in volumes.check(cri.connection)] == []
    unmount_tree(one.path)
    (found,) = [found async for found in volumes.check(cri.connection, repair=True)]
    assert found.mended, found
    assert [found async for found in volumes.check(cri.connection)] == []
    files.rmdir()
    lost = cribd.data / "volumes" / ("0" * 32)
    lost.mkdir()
    done = cribd.run("--check")
    assert done.returncode == 2, done.stdout  # a daemon runs: only that is said
    told = {found.subject: found async for found in volumes.check(cri.connection)}
    assert told.keys() == {"default/memory of pod default/one", str(lost)}
    pruned = [row async for row in volumes.prune(cri.connection)]
    assert [(row.volume, row.removed, row.problem) for row in pruned] == [("default/memory", False, "")]
    assert lost.is_dir()
    lost.rmdir()


async def test_a_node_without_a_daemon_is_checked_and_wiped(mortal: Cribd, tmp_path: Path) -> None:
    cribd = mortal
    before = cribd.leftovers()
    async with cribd.connect() as cri:
        await volumes.publish(cri.connection, asked("one", tmp_path, *of_each_kind()))
    cribd.kill()
    unmount_tree(str(cribd.state / "volumes"))
    done = cribd.run("--check", "--quick")
    areas = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done
    assert {one["subject"] for one in areas if one["area"] == "volumes"} >= {"default/memory"}
    done = cribd.run("--wipe", "pods")
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(cribd.boot_records)) as connection:
        assert connection.execute("SELECT count(*) FROM volumes").fetchone() == (3,)
    done = cribd.run("--wipe", "volumes")
    assert done.returncode == 0, done.stderr
    wiped = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    assert wiped == ["default/disk", "default/file", "default/memory"]
    assert not os.listdir(cribd.data / "volumes")
    cribd.start()
    assert not cribd.leftovers().mounts - before.mounts
