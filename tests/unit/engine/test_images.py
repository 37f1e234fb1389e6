"""Pulls, imports, removal, and what a sweep may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from crib.engine.images.catalogue import Catalogue
from crib.engine.images.transfers import TransferUpdate
from crib.model.errors import Broken, InvalidRequest, NotFound, Unavailable
from crib.model.ids import ImageId
from crib.model.image import FetchedImage, ImageDocuments, ImageRecord
from crib.model.sandbox import PodMetadata
from crib.model.settings import Settings
from tests.fakes.clock import ManualClock
from tests.fakes.images import digest_of, made_image
from tests.fakes.records import MemoryRecords
from tests.fakes.settings import image_settings
from tests.fakes.world import IMAGE, World, bounded, container_config, order, turns, until

LINGER = 1000.0


@pytest.fixture
async def patient() -> AsyncIterator[World]:
    """A world whose pulls go on for a while after their last caller."""
    made = World(Settings(images=image_settings(pull_linger=LINGER)))
    await made.start()
    yield made
    await made.close()


def status(world: World, text: str) -> ImageRecord:
    found = world.node.images.status(text)
    assert found is not None
    return found


async def collected(updates: AsyncIterator[TransferUpdate]) -> list[TransferUpdate]:
    async with bounded():
        return [update async for update in updates]


async def test_a_pulled_image_is_found_by_name_tag_digest_id_and_beginning_of_the_id(world: World) -> None:
    async with bounded():
        record = await world.pull("busybox")
    for text in (
        "busybox",
        "docker.io/busybox",
        IMAGE,
        record.id,
        record.id.removeprefix("sha256:"),
        record.id.removeprefix("sha256:")[:12],
        record.id[: len("sha256:") + 12],
        record.id[: len("sha256:") + 4],
        record.digests[0],
        f"busybox:ignored@{record.digests[0].partition('@')[2]}",
    ):
        assert status(world, text) == record, text
    assert world.node.images.status("busybox:other") is None
    assert world.node.images.status(digest_of("other")) is None
    assert world.node.images.status("a" * 64) is None
    for text in ("sha256:", "sha256:abc", "sha256:no-digits", "sha256:" + "a" * 65):
        assert world.node.images.status(text) is None, text
    assert (record.tags, list(world.node.images.list())) == ((IMAGE,), [record])


async def test_a_text_that_is_no_reference_is_refused(world: World) -> None:
    for text in ("", "Not An Image", "busybox@sha256:short"):
        with pytest.raises(InvalidRequest):
            world.node.images.status(text)
        with pytest.raises(InvalidRequest):
            await world.pull(text)


def test_images_recorded_under_names_that_are_spelled_otherwise_now_are_found() -> None:
    digest = f"@{digest_of('manifest')}"
    made = [made_image(name, name) for name in ("older", "younger")]
    older, younger = (
        ImageRecord(image.id, image.config, image.layers, created_at=number)
        for number, image in enumerate(made)
    )
    catalogue = Catalogue(MemoryRecords(), ManualClock())
    catalogue.fill(
        [
            replace(younger, tags=("Registry.Example:443/a:1", "registry.example/a:1")),
            replace(
                older, tags=("registry.example/a:1", "LocalHost:5/b:1"), digests=(f"LocalHost:5/b{digest}",)
            ),
        ]
    )
    found = {name: catalogue.find(name) for name in ("registry.example:443/a:1", f"localhost:5/b{digest}")}
    assert [row and row.id for row in found.values()] == [younger.id, older.id]
    assert [row.tags for row in catalogue] == [("localhost:5/b:1",), ("registry.example/a:1",)]


async def test_an_image_that_lost_a_layer_is_not_here_until_it_is_pulled_again(world: World) -> None:
    record = await world.pull(IMAGE)
    kept = world.images.publish("kept:1", made_image("kept", "other"))
    await world.pull("kept:1")
    pod = await world.pod()
    world.images.layers.discard(record.layers[0].diff_id)
    assert status(world, IMAGE) == record  # nobody has missed it yet
    world.handler.failpoints.set("create=1*notfound(layer is not on disk)")
    async with bounded():
        with pytest.raises(NotFound):
            await world.node.containers.create(pod, container_config())
    for text in (IMAGE, record.id, record.digests[0]):
        assert world.node.images.status(text) is None
    assert [row.id for row in world.node.images.list()] == [kept.id]
    async with bounded():
        again = await world.pull(IMAGE)
    assert status(world, IMAGE) == again
    assert len(list(world.node.images.list())) == 2
    assert await world.created(pod)


async def test_a_layer_that_was_lost_while_no_daemon_ran_is_missed_at_the_start(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    record = await world.pull(IMAGE)
    world.images.layers.clear()
    await world.restarted()
    assert world.node.images.status(IMAGE) is None
    assert f"image {IMAGE} has to be pulled again: missing on disk: {record.layers[0].diff_id}" in caplog.text
    async with bounded():
        await world.node.images.remove(IMAGE)  # it can still be removed
    assert world.records.images == {}


async def test_a_pull_while_layers_are_looked_at_is_not_forgotten(world: World) -> None:
    record = await world.pull(IMAGE)
    pod = await world.pod()
    world.images.layers.clear()
    world.handler.failpoints.set("create=1*notfound(layer is not on disk)")
    hold = world.images.failpoints.hold("present")
    async with bounded():
        creating = asyncio.ensure_future(world.node.containers.create(pod, container_config()))
        await hold.reached.wait()
        pulling = asyncio.ensure_future(world.pull(IMAGE))
        await turns()
        hold.release.set()
        with pytest.raises(NotFound):
            await creating
        await pulling
    assert status(world, IMAGE).id == record.id


async def test_an_image_name_that_looks_like_the_beginning_of_an_id_is_the_name(world: World) -> None:
    other = status_of = await world.pull(IMAGE)
    name = other.id.removeprefix("sha256:")[:6]
    assert status(world, name) == status_of
    named = world.images.publish(name, made_image("named", "x"))
    await world.pull(name)
    assert status(world, name).id == named.id


async def test_a_beginning_that_fits_two_images_is_refused(world: World) -> None:
    base = made_image("a", "x")
    for number in (1, 2):
        image = replace(
            base, id=ImageId(f"sha256:feed{number}{'0' * 59}"), manifest_digest=digest_of(str(number))
        )
        world.images.publish(f"image{number}", image)
        await world.pull(f"image{number}")
    for text in ("feed", "sha256:feed"):
        with pytest.raises(
            InvalidRequest, match=f"{text} is the beginning of 2 image ids: feed10+, feed20+$"
        ):
            world.node.images.status(text)
        with pytest.raises(InvalidRequest, match="beginning of 2 image ids"):
            await world.node.images.remove(text)
    assert status(world, "sha256:feed1").id.startswith("sha256:feed1")


async def test_two_pulls_at_once_are_one_and_both_get_the_image(world: World) -> None:
    hold = world.images.failpoints.hold("pull")
    both = [asyncio.ensure_future(world.pull(name)) for name in ("busybox", IMAGE)]
    async with bounded():
        await hold.reached.wait()
        await turns()
        hold.release.set()
        first, second = await asyncio.gather(*both)
    assert first == second
    assert world.images.failpoints.count("pull") == 1


async def test_a_half_pulled_image_is_not_listed(world: World) -> None:
    hold = world.images.failpoints.hold("pull")
    pulling = asyncio.ensure_future(world.pull(IMAGE))
    async with bounded():
        await hold.reached.wait()
        assert list(world.node.images.list()) == []
        hold.release.set()
        await pulling
    assert len(world.records.images) == 1


async def test_a_failed_pull_fails_for_all_and_the_next_starts_anew(world: World) -> None:
    world.images.failpoints.set("pull=1*unavailable(registry is away)")
    with pytest.raises(Unavailable, match="registry is away"):
        await world.pull(IMAGE)
    with pytest.raises(NotFound):
        await world.pull("nowhere")
    await world.pull(IMAGE)


async def test_a_pull_goes_on_for_a_while_after_its_last_caller_has_gone(
    patient: World, later: Callable[[float], None]
) -> None:
    hold = patient.images.failpoints.hold("pull")
    first = asyncio.ensure_future(patient.pull(IMAGE))
    async with bounded():
        await hold.reached.wait()
    first.cancel()
    await turns()
    second = asyncio.ensure_future(patient.pull(IMAGE))
    await turns()
    later(2 * LINGER)  # longer than it lingers: the second caller holds it
    await turns()
    assert not second.done()
    hold.release.set()
    async with bounded():
        await second
    assert patient.images.failpoints.count("pull") == 1


async def test_a_pull_that_nobody_waits_for_is_cancelled_in_the_end(
    patient: World, later: Callable[[float], None]
) -> None:
    hold = patient.images.failpoints.hold("pull")
    first = asyncio.ensure_future(patient.pull(IMAGE))
    async with bounded():
        await hold.reached.wait()
    tasks = set(patient.node.keeper._tasks)
    first.cancel()
    await turns()
    assert not any(task.done() for task in tasks)
    later(2 * LINGER)
    async with bounded():
        await asyncio.wait(tasks)
    assert patient.records.images == {}
    async with bounded():
        await patient.pull(IMAGE)
    assert patient.images.failpoints.count("pull") == 2


async def test_a_tag_moves_from_one_image_to_another_and_the_old_one_keeps_its_digest(world: World) -> None:
    old = await world.pull(IMAGE)
    new = world.images.publish(IMAGE, made_image("busybox2", "base", "more"))
    async with bounded():
        record = await world.pull(IMAGE)
    assert record.id == new.id
    assert status(world, IMAGE) == record
    loser = status(world, old.id)
    assert (loser.tags, loser.digests) == ((), old.digests)
    assert world.records.images == {record.id: record, old.id: loser}


async def test_an_image_that_came_by_an_index_is_found_by_the_digest_of_its_own_manifest_too(
    world: World,
) -> None:
    documents = ImageDocuments(b"config", b"manifest")
    image = replace(made_image("multi", "base"), documents=documents, own_digest=digest_of("manifest"))
    world.images.publish("multi.example/a:1", image)
    by_index = f"multi.example/a@{image.manifest_digest}"
    record = await world.pull(by_index)
    own = f"multi.example/a@{digest_of('manifest')}"
    assert status(world, own) == record
    assert record.digests == (by_index, own)  # the one that was asked for stands for it
    assert (await world.pull(by_index)).digests == record.digests
    assert world.records.images[record.id].digests == record.digests


async def test_one_image_under_two_names_has_both_and_is_written_once_for_each(world: World) -> None:
    image = made_image("two", "base")
    for name in ("one.example/a:1", "two.example/b:2"):
        world.images.publish(name, image)
        await world.pull(name)
    await world.pull("one.example/a:1")
    record = status(world, image.id)
    assert record.tags == ("one.example/a:1", "two.example/b:2")
    assert len(record.digests) == 2
    assert world.records.failpoints.count("put_image") == 2


@pytest.mark.parametrize("by", ["tag", "digest", "id"])
async def test_remove_by_any_reference_removes_all_names_and_the_layers(world: World, by: str) -> None:
    record = await world.pull(IMAGE)
    world.images.publish("other:1", made_image("busybox", "base"))
    await world.pull("other:1")
    text = {"tag": "other:1", "digest": record.digests[0], "id": record.id}[by]
    async with bounded():
        await world.node.images.remove(text)
    assert list(world.node.images.list()) == []
    for name in (IMAGE, "other:1", record.digests[0], record.id):
        assert world.node.images.status(name) is None
    assert world.records.images == {}
    assert world.images.layers == set()
    await world.node.images.remove(text)


async def test_a_removed_image_leaves_no_name_that_it_got_while_it_was_removed(world: World) -> None:
    await world.pull(IMAGE)
    world.images.publish("other:1", made_image("busybox", "base"))
    hold = world.records.failpoints.hold("put_image")
    pulling = asyncio.ensure_future(world.pull("other:1"))
    async with bounded():
        await hold.reached.wait()
        removing = asyncio.ensure_future(world.node.images.remove(IMAGE))
        await turns()
        hold.release.set()
        await asyncio.gather(pulling, removing)
    assert world.node.images.status("other:1") is None
    assert world.records.images == {}


async def test_layers_that_another_image_needs_stay(world: World) -> None:
    await world.pull(IMAGE)
    world.images.publish("child", made_image("child", "base", "more"))
    await world.pull("child")
    async with bounded():
        await world.node.images.remove("child")
    assert world.images.layers == {digest_of("base")}


async def test_a_sweep_never_takes_layers_of_a_pull_in_flight_and_comes_afterwards(world: World) -> None:
    await world.pull(IMAGE)
    world.images.publish("new", made_image("new", "fresh"))
    hold = world.images.failpoints.hold("pull")
    pulling = asyncio.ensure_future(world.pull("new"))
    async with bounded():
        await hold.reached.wait()
        await world.node.images.remove(IMAGE)
        assert world.images.layers == {digest_of("base"), digest_of("fresh")}
        hold.release.set()
        await pulling
    assert world.images.layers == {digest_of("fresh")}


async def test_an_export_that_hangs_keeps_the_layers_of_its_own_image_only(world: World) -> None:
    for name in ("own:1", "other:1"):
        world.images.publish(name, made_image(name, f"of {name}"))
        await world.pull(name)
    hold = world.images.failpoints.hold("export")
    exporting = asyncio.ensure_future(world.node.images.export("/hung/x.tar", ["own:1"], "oci"))
    async with bounded():
        await hold.reached.wait()
        await world.node.images.remove("other:1")
        assert world.images.layers == {digest_of("of own:1")}
        await world.node.images.remove("own:1")
        assert world.images.layers == {digest_of("of own:1")}
        hold.release.set()
        await exporting
    await until(lambda: not world.images.layers)


async def test_a_sweep_after_a_failed_pull_takes_its_layers(world: World) -> None:
    world.images.publish("new", made_image("new", "fresh"))
    hold = world.images.failpoints.hold("pull")
    world.images.failpoints.set("pull=1*error(torn)")
    pulling = asyncio.ensure_future(world.pull("new"))
    async with bounded():
        await hold.reached.wait()
        await world.node.images.sweep()
        hold.release.set()
        with pytest.raises(Broken, match="torn"):
            await pulling
    assert world.images.layers == set()


async def test_a_pull_waits_for_a_sweep_under_way(world: World) -> None:
    hold = world.images.failpoints.hold("sweep")
    sweeping = asyncio.ensure_future(world.node.images.sweep())
    async with bounded():
        await hold.reached.wait()
        pulling = asyncio.ensure_future(world.pull(IMAGE))
        await turns()
        assert world.images.failpoints.count("pull") == 0
        hold.release.set()
        await asyncio.gather(sweeping, pulling)
    assert world.images.layers == {digest_of("base")}


async def test_a_sweep_never_takes_layers_of_a_container_whose_image_was_removed(world: World) -> None:
    pod = await world.pod()
    container = await world.created(pod)
    async with bounded():
        await world.node.images.remove(IMAGE)
    assert world.images.layers == {digest_of("base")}
    async with bounded():
        await world.node.containers.remove(container)
        await world.node.images.sweep()
    assert world.images.layers == set()


async def test_a_sweep_that_fails_is_tried_again_until_it_succeeds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crib.engine.retries.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("crib.engine.retries.Retries.later.__defaults__", (0.0,))
    await world.pull(IMAGE)
    world.images.failpoints.set("sweep=3*unavailable(the disk is away)")
    async with bounded():
        await world.node.images.remove(IMAGE)
    await until(lambda: not world.images.layers)


async def test_a_sweep_that_fails_does_not_fail_the_pull_that_it_came_after(world: World) -> None:
    hold = world.images.failpoints.hold("pull")
    pulling = asyncio.ensure_future(world.pull(IMAGE))
    async with bounded():
        await hold.reached.wait()
        await world.node.images.sweep()
        world.images.failpoints.set("sweep=1*error(layer busy)")
        hold.release.set()
        record = await pulling
    assert status(world, IMAGE) == record


async def test_a_follower_sees_progress_and_in_the_end_the_image(world: World) -> None:
    hold = world.images.failpoints.hold("pull")
    updates = world.node.images.follow_pull(order(IMAGE), start=True)
    async with bounded():
        first = await anext(updates)
        await hold.reached.wait()
        hold.release.set()
    rest = await collected(updates)
    assert not first.finished
    assert rest[-1].finished
    assert rest[-1].images == (status(world, IMAGE),)
    assert {progress.stage for progress in rest[-1].layers} == {"resolving", "done"}


async def test_a_follower_joins_a_pull_under_way_and_its_leaving_does_not_end_it(world: World) -> None:
    hold = world.images.failpoints.hold("pull")
    pulling = asyncio.ensure_future(world.pull(IMAGE))
    async with bounded():
        await hold.reached.wait()
        updates: Any = world.node.images.follow_pull(order("busybox"), start=False)
        first = await anext(updates)
        assert {progress.stage for progress in first.layers} == {"resolving", "done"}
        await updates.aclose()
        await turns()
        hold.release.set()
        await pulling
    assert world.images.failpoints.count("pull") == 1


async def test_following_a_pull_that_is_not_under_way_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="under way"):
        await anext(world.node.images.follow_pull(order(IMAGE), start=False))


async def test_a_follower_gets_the_error_of_a_failed_pull(world: World) -> None:
    world.images.failpoints.set("pull=1*unavailable(registry is away)")
    with pytest.raises(Unavailable, match="registry is away"):
        await collected(world.node.images.follow_pull(order(IMAGE), start=True))


def archive(world: World, *names: str, count: int = 1) -> tuple[FetchedImage, ...]:
    images = tuple(replace(made_image(f"saved{n}", f"layer{n}"), names=names) for n in range(count))
    world.images.archives["/tmp/saved.tar"] = images
    return images


async def test_an_imported_image_gets_the_names_in_the_archive_or_those_that_are_given(world: World) -> None:
    archive(world, "docker.io/library/saved:1")
    (last,) = (await collected(world.node.images.import_archive("/tmp/saved.tar", [])))[-1].images
    assert last.tags == ("docker.io/library/saved:1",)
    await world.node.images.remove("saved:1")
    (last,) = (await collected(world.node.images.import_archive("/tmp/saved.tar", ["mine"])))[-1].images
    assert last.tags == ("docker.io/library/mine:latest",)


async def test_an_import_with_one_name_for_two_images_or_a_digest_as_name_is_refused(world: World) -> None:
    archive(world, count=2)
    with pytest.raises(InvalidRequest, match="holds 2 images"):
        await collected(world.node.images.import_archive("/tmp/saved.tar", ["mine"]))
    name = f"mine@{digest_of('x')}"
    with pytest.raises(InvalidRequest, match="by digest"):
        await collected(world.node.images.import_archive("/tmp/saved.tar", [name]))
    assert list(world.node.images.list()) == []


async def test_a_failed_import_whose_watcher_left_is_heard_by_the_keeper_only(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    archive(world)
    hold = world.images.failpoints.hold("import_archive")
    world.images.failpoints.set("import_archive=1*error(torn)")
    updates: Any = world.node.images.import_archive("/tmp/saved.tar", [])
    async with bounded():
        await anext(updates)
        await hold.reached.wait()
        await updates.aclose()
        hold.release.set()
    await until(lambda: not world.node.keeper._tasks)
    assert "never retrieved" not in caplog.text


async def test_a_pull_for_a_known_pod_is_a_stage_of_its_start(world: World) -> None:
    pod = await world.pod()
    await world.pull(IMAGE, PodMetadata("web", "uid-web", "default"))
    await world.pull(IMAGE, PodMetadata("nobody", "uid", "default"))
    stages = [stage for stage in world.node.timeline(pod).timeline.stages if stage.name == "PullImage"]
    assert [(stage.subject, stage.outcome) for stage in stages] == [(IMAGE, "ok")]


async def test_the_usage_of_layers_and_writable_layers_is_told(world: World) -> None:
    await world.pulled()
    layers, writable = await world.node.images.fs_usage()
    assert (layers.used_bytes, writable.used_bytes) == (1000, 0)


async def test_layers_of_a_removed_image_go_with_the_last_container_that_needs_them(world: World) -> None:
    container = await world.created(await world.pod())
    record = world.node.containers.get(container)
    await world.node.images.remove(record.image_id)
    assert set(record.layers) <= world.images.layers
    await world.node.containers.remove(container)
    await until(lambda: not set(record.layers) & world.images.layers)
