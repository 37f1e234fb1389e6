"""The port `Records`: in memory, and in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from crib.backends.records.database import Database
from crib.backends.records.rows import SqliteRecords
from crib.model.container import ContainerState
from crib.model.ids import ImageId, new_container_id, new_sandbox_id
from crib.model.image import ImageDocuments
from crib.model.paths import Paths
from crib.model.sandbox import SandboxState
from crib.ports.records import Records
from tests.contract.records_samples import (
    full_container,
    full_documents,
    full_image,
    full_sandbox,
    full_snapshot,
    full_volume,
)
from tests.fakes.records import MemoryRecords

Reopen = Callable[[], Records]
"""Gives the records, or those that a daemon finds that starts after this one."""


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    opened: list[Records] = []
    (tmp_path / "state").mkdir()
    memory = MemoryRecords()

    def reopen() -> Records:
        if opened:
            opened.pop().close()
        opened.append(
            memory
            if request.param == "memory"
            else SqliteRecords(Database(Paths(str(tmp_path), str(tmp_path / "state"))))
        )
        return opened[-1]

    yield reopen
    opened.pop().close()


async def test_nothing_is_there_at_first(reopen: Reopen) -> None:
    rows = reopen().load()
    assert (list(rows.sandboxes), list(rows.containers), list(rows.images)) == ([], [], [])


async def test_every_field_of_every_record_comes_back(reopen: Reopen) -> None:
    records = reopen()
    sandbox, container, image = full_sandbox(), full_container(), full_image()
    records.put_sandbox(sandbox)
    records.put_container(container)
    await records.put_image(image)
    rows = reopen().load()
    assert (list(rows.sandboxes), list(rows.containers), list(rows.images)) == (
        [sandbox],
        [container],
        [image],
    )


async def test_every_field_of_volumes_and_snapshots_comes_back(reopen: Reopen) -> None:
    records = reopen()
    volume, snapshot = full_volume(), full_snapshot()
    assert all(getattr(volume, one.name) for one in fields(volume)), "a field is left as it is by default"
    assert all(getattr(snapshot, one.name) for one in fields(snapshot))
    assert all(getattr(volume.spec, one.name) for one in fields(volume.spec))
    records.put_volume(volume)
    records.put_snapshot(snapshot)
    rows = reopen().load()
    assert (list(rows.volumes), list(rows.snapshots)) == ([volume], [snapshot])


async def test_volumes_and_snapshots_take_the_place_of_earlier_ones_and_go(reopen: Reopen) -> None:
    records = reopen()
    volume, snapshot = full_volume(), full_snapshot()
    for one, two in ((volume, snapshot), (replace(volume, uses=()), replace(snapshot, size=7))):
        records.put_volume(one)
        records.put_snapshot(two)
    rows = records.load()
    assert (list(rows.volumes), list(rows.snapshots)) == (
        [replace(volume, uses=())],
        [replace(snapshot, size=7)],
    )
    for _ in range(2):
        records.delete_volume(volume.id)
        records.delete_snapshot(snapshot.id)
    rows = reopen().load()
    assert (list(rows.volumes), list(rows.snapshots)) == ([], [])


async def test_a_later_record_of_the_same_id_takes_the_place_of_the_first(reopen: Reopen) -> None:
    records = reopen()
    sandbox, container, image = full_sandbox(), full_container(), full_image()
    later = (
        replace(sandbox, state=SandboxState.READY),
        replace(container, state=ContainerState.RUNNING),
        replace(image, tags=()),
    )
    for first, second, third in ((sandbox, container, image), later):
        records.put_sandbox(first)
        records.put_container(second)
        await records.put_image(third)
    rows = reopen().load()
    assert (*rows.sandboxes, *rows.containers, *rows.images) == later


async def test_what_is_deleted_is_gone_and_the_rest_stays(reopen: Reopen) -> None:
    records = reopen()
    sandboxes = [full_sandbox() for _ in range(2)]
    containers = [full_container() for _ in range(2)]
    images = [full_image("a"), full_image("b")]
    for sandbox, container, image in zip(sandboxes, containers, images, strict=True):
        records.put_sandbox(sandbox)
        records.put_container(container)
        await records.put_image(image)
    records.delete_sandbox(sandboxes[0].id)
    records.delete_container(containers[0].id)
    await records.delete_image(images[0].id)
    rows = reopen().load()
    assert (*rows.sandboxes, *rows.containers, *rows.images) == (sandboxes[1], containers[1], images[1])


async def test_deleting_what_is_not_there_is_fine(reopen: Reopen) -> None:
    records = reopen()
    records.delete_sandbox(new_sandbox_id())
    records.delete_container(new_container_id())
    await records.delete_image(ImageId("sha256:" + "0" * 64))


async def test_an_images_documents_come_back_byte_for_byte_after_a_restart(reopen: Reopen) -> None:
    records = reopen()
    for name in "ab":
        await records.put_image(full_image(name), full_documents(name))
    records = reopen()
    assert await records.image_documents(full_image("a").id) == full_documents("a")
    assert await records.image_documents(full_image("b").id) == full_documents("b")


async def test_a_record_without_documents_leaves_those_that_are_there(reopen: Reopen) -> None:
    records = reopen()
    image = full_image()
    await records.put_image(image, full_documents())
    await records.put_image(replace(image, tags=()))
    assert await records.image_documents(image.id) == full_documents()
    assert list(records.load().images) == [replace(image, tags=())]


async def test_later_documents_take_the_place_of_the_first(reopen: Reopen) -> None:
    records = reopen()
    await records.put_image(full_image(), full_documents("a"))
    await records.put_image(full_image(), full_documents("b"))
    assert await records.image_documents(full_image().id) == full_documents("b")


async def test_an_image_without_documents_has_empty_ones(reopen: Reopen) -> None:
    records = reopen()
    await records.put_image(full_image())
    for image in (full_image().id, full_image("b").id):
        assert await records.image_documents(image) == ImageDocuments()


async def test_a_deleted_image_takes_its_documents_with_it(reopen: Reopen) -> None:
    records = reopen()
    for name in "ab":
        await records.put_image(full_image(name), full_documents(name))
    await records.delete_image(full_image("a").id)
    await records.put_image(full_image("a"))
    assert await records.image_documents(full_image("a").id) == ImageDocuments()
    assert await records.image_documents(full_image("b").id) == full_documents("b")


async def test_the_databases_have_sizes(reopen: Reopen) -> None:
    records = reopen()
    records.put_sandbox(full_sandbox())
    await records.put_image(full_image())
    sizes = await records.sizes()
    assert sum(sizes.values()) > 0
    assert all(path.startswith("/") for path in sizes)
