"""The port `Records`: in memory, and in SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.records.database import Database
from crib.backends.records.rows import SqliteRecords
from crib.model.container import ContainerState
from crib.model.ids import ImageId, new_container_id, new_sandbox_id
from crib.model.sandbox import SandboxState
from crib.ports import Records
from tests.contract.records_samples import full_container, full_image, full_sandbox
from tests.fakes.records import MemoryRecords

Reopen = Callable[[], Records]
"""Gives the records, or those that a daemon finds that starts after this one."""


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    opened: list[Records] = []
    memory = MemoryRecords()

    def reopen() -> Records:
        if opened:
            opened.pop().close()
        opened.append(
            memory
            if request.param == "memory"
            else SqliteRecords(Database(str(tmp_path / "crib.db"), str(tmp_path / "images.db")))
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
