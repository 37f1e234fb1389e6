"""How bytes come: resumed, in ranges, side by side, each once, no faster than allowed, and told of."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.backends.images.messages import BLOB_SUFFIX, blob_name
from crib.backends.images.worker.download import LARGE, RANGE
from crib.model.errors import Broken, CribError, Unavailable
from crib.model.image import FetchedImage
from tests.fault_proxy import FaultProxy, Seen, running_proxy
from tests.faults import cut, flip, held_until, no_ranges, status
from tests.images import GZIP, BuiltImage, BuiltLayer, digest_of
from tests.system.labs.daemon import until
from tests.system.labs.image_lab import ImageLab, image_lab
from tests.system.labs.registry_lab import QUICK, PackedLayer, image_of, noise, noise_image, pull, refused
from tests.upstreams import Shelf

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

GRAIN = 1 << 16
"""Bytes of which the spool knows whether they are there."""


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def proxy(shelf: Shelf) -> Iterator[FaultProxy]:
    with running_proxy(shelf) as running:
        yield running


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(tmp_path, **QUICK) as made:
        yield made


@pytest.fixture(scope="module")
def large() -> BuiltImage:
    """One layer that is fetched in ranges."""
    return image_of(noise(LARGE + (5 << 20)))


def victim_of(image: BuiltImage) -> str:
    return digest_of(image.layers[0].blob)


def bounds(seen: Seen, size: int) -> tuple[int, int]:
    """The bytes that a request asked for; the end is exclusive."""
    first, _, last = seen.range.removeprefix("bytes=").partition("-")
    return int(first or 0), int(last) + 1 if last else size


async def broken_off(lab: ImageLab, name: str, proxy: FaultProxy, victim: str, stop: int) -> None:
    """A pull that fails when so many bytes of the victim have come."""
    proxy.add(victim, cut(stop), times=1)
    proxy.add(victim, status(418))
    await refused(lab, name, Unavailable, "418")
    proxy.clear()


async def test_what_a_failed_pull_has_brought_is_used_by_the_next(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(3_000_000)
    shelf.add("a/b", image)
    name, victim = f"{proxy.host}/a/b:1", victim_of(image)
    await broken_off(lab, name, proxy, victim, 2_000_000)
    assert blob_name(victim) in lab.staged()
    assert (await pull(lab, name)).id == image.id
    (again,) = proxy.of("layer", victim)
    assert goes_on_at(again, 2_000_000)
    assert lab.staged() == []


async def test_what_has_come_is_used_after_the_worker_was_killed(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(3_000_000)
    shelf.add("a/b", image)
    name, victim = f"{proxy.host}/a/b:1", victim_of(image)
    proxy.add(victim, cut(2_000_000, "stall"), times=1)
    request = asyncio.ensure_future(pull(lab, name))
    spool = Path(lab.paths.staging, blob_name(victim))
    await until_size(spool, 2_000_000)
    worker = lab.store.worker_pid
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(CribError, match="worker"):
        await request
    proxy.clear()
    assert (await pull(lab, name)).id == image.id
    assert lab.store.worker_pid != worker
    (again,) = proxy.of("layer", victim)
    assert goes_on_at(again, 2_000_000)
    assert lab.staged() == []


async def until_size(path: Path, size: int) -> None:
    await until(lambda: path.exists() and path.stat().st_size >= size)


def goes_on_at(seen: Seen, size: int) -> bool:
    """Whether it asks for what follows the first `size` bytes, or up to two of the spool's grains more."""
    first, dash, last = seen.range.removeprefix("bytes=").partition("-")
    return dash == "-" and not last and size - 2 * GRAIN <= int(first) <= size


async def test_what_has_come_is_used_by_a_new_daemon(tmp_path: Path, proxy: FaultProxy, shelf: Shelf) -> None:
    image = noise_image(3_000_000)
    shelf.add("a/b", image)
    name, victim = f"{proxy.host}/a/b:1", victim_of(image)
    async with image_lab(tmp_path, **QUICK) as lab:
        await broken_off(lab, name, proxy, victim, 2_000_000)
    async with image_lab(tmp_path, **QUICK) as lab:
        await lab.store.sweep([])
        assert (await pull(lab, name)).id == image.id
    (again,) = proxy.of("layer", victim)
    assert goes_on_at(again, 2_000_000)


async def test_bytes_that_were_damaged_on_disk_meanwhile_are_fetched_again(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(3_000_000)
    shelf.add("a/b", image)
    name, victim = f"{proxy.host}/a/b:1", victim_of(image)
    await broken_off(lab, name, proxy, victim, 2_000_000)
    spool = Path(lab.paths.staging, blob_name(victim))
    data = bytearray(spool.read_bytes())
    data[1_000_000] ^= 1
    spool.write_bytes(data)
    assert (await pull(lab, name)).id == image.id
    assert proxy.of("layer", victim)[-1].range == ""


async def test_parts_that_are_too_old_are_not_kept(tmp_path: Path, proxy: FaultProxy, shelf: Shelf) -> None:
    image = noise_image(3_000_000)
    shelf.add("a/b", image)
    name, victim = f"{proxy.host}/a/b:1", victim_of(image)
    async with image_lab(tmp_path, **QUICK, partial_time=3600.0) as lab:
        await broken_off(lab, name, proxy, victim, 2_000_000)
        old = time.time() - 3700
        os.utime(Path(lab.paths.staging, blob_name(victim)), (old, old))
    async with image_lab(tmp_path, **QUICK, partial_time=3600.0) as lab:
        assert (await pull(lab, name)).id == image.id
    assert [seen.range for seen in proxy.of("layer", victim)] == [""]


async def test_a_large_layer_comes_in_ranges_side_by_side(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf, large: BuiltImage
) -> None:
    shelf.add("a/b", large)
    assert (await pull(lab, f"{proxy.host}/a/b:1")).id == large.id
    size = len(large.layers[0].blob)
    asked = proxy.of("layer")
    assert len({seen.connection for seen in asked}) > 1
    assert max(bounds(seen, size)[1] - bounds(seen, size)[0] for seen in asked[1:]) < 2 * RANGE
    assert sum(seen.sent for seen in asked) < 1.5 * size
    covered = sorted(bounds(seen, size) for seen in asked)
    assert covered[0][0] == 0
    assert covered[-1][1] == size
    assert all(one[1] >= other[0] for one, other in itertools.pairwise(covered))


async def test_a_host_without_ranges_gives_a_large_layer_once(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf, large: BuiltImage
) -> None:
    shelf.add("a/b", large)
    proxy.add("layer", no_ranges)
    assert (await pull(lab, f"{proxy.host}/a/b:1")).id == large.id
    assert len(proxy.of("layer")) == 1
    assert proxy.sent("/blobs/") < 1.1 * len(large.layers[0].blob)


async def test_ranges_that_break_off_are_made_good_one_by_one(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf, large: BuiltImage
) -> None:
    shelf.add("a/b", large)
    for number in range(1, 5):
        proxy.add("layer", cut(1_000_000, "close"), after=number, times=1)
    assert (await pull(lab, f"{proxy.host}/a/b:1")).id == large.id
    assert proxy.sent("/blobs/") < 1.5 * len(large.layers[0].blob)


async def test_a_wrong_byte_in_one_range_of_one_host_is_made_good_by_the_other(
    tmp_path: Path, proxy: FaultProxy, shelf: Shelf, large: BuiltImage
) -> None:
    shelf.add("a/b", large)
    proxy.add("layer", flip(), after=2)
    with running_proxy(shelf) as second:
        mirrors = {"registry.invalid": (proxy.url, second.url)}
        async with image_lab(tmp_path, mirrors=mirrors, **QUICK) as lab:
            assert (await pull(lab, "registry.invalid/a/b:1")).id == large.id
            assert second.sent("/blobs/") >= len(large.layers[0].blob)
            assert lab.staged() == []


async def test_a_wrong_byte_of_the_only_host_is_told_and_nothing_of_it_is_resumed(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(300_000)
    shelf.add("a/b", image)
    proxy.add("layer", flip(100))
    await refused(lab, f"{proxy.host}/a/b:1", Broken, victim_of(image), proxy.host)
    proxy.clear()
    assert (await pull(lab, f"{proxy.host}/a/b:1")).id == image.id
    assert [seen.range for seen in proxy.of("layer")] == [""]


async def test_layers_come_side_by_side_and_not_more_than_allowed(
    tmp_path: Path, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(*[50_000] * 6)
    shelf.add("a/b", image)
    gate = threading.Event()
    proxy.add("layer", held_until(gate))
    async with image_lab(tmp_path, parallel_layers=4) as lab:
        request = asyncio.ensure_future(pull(lab, f"{proxy.host}/a/b:1"))
        await asyncio.to_thread(proxy.wait_for, lambda proxy: len(one_kind(proxy, "layer")) >= 4)
        # A fifth would come within this time if it came at all.
        await asyncio.sleep(0.1)
        assert len(proxy.of("layer")) == 4
        gate.set()
        assert (await request).id == image.id


def one_kind(proxy: FaultProxy, kind: str) -> list[Seen]:
    """As FaultProxy.of, for questions that hold its lock."""
    return [seen for seen in proxy.seen if seen.kind == kind]


async def test_the_same_layer_in_two_images_that_come_together_is_fetched_once(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    shared = noise(500_000)
    images = [image_of(shared, noise(1000)) for _ in range(4)]
    for number, image in enumerate(images):
        shelf.add(f"a/{number}", image)
    gate = threading.Event()
    proxy.add(digest_of(shared.blob), held_until(gate))
    pulls = [asyncio.ensure_future(pull(lab, f"{proxy.host}/a/{number}:1")) for number in range(4)]
    await asyncio.to_thread(proxy.wait_for, lambda proxy: len(one_kind(proxy, "layer")) >= 5)
    gate.set()
    fetched = await asyncio.gather(*pulls)
    assert [one.id for one in fetched] == [image.id for image in images]
    assert len(proxy.of("layer", digest_of(shared.blob))) == 1
    assert len(lab.layers()) == 5


async def test_a_layer_whose_first_puller_is_gone_comes_for_the_second(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    shared = noise(500_000)
    images = [image_of(shared, noise(1000)) for _ in range(2)]
    for number, image in enumerate(images):
        shelf.add(f"a/{number}", image)
    gate = threading.Event()
    proxy.add(digest_of(shared.blob), held_until(gate))
    pulls = [asyncio.ensure_future(pull(lab, f"{proxy.host}/a/{number}:1")) for number in range(2)]
    await asyncio.to_thread(proxy.wait_for, lambda proxy: len(one_kind(proxy, "layer")) >= 3)
    pulls[0].cancel()
    gate.set()
    assert (await pulls[1]).id == images[1].id
    with pytest.raises(asyncio.CancelledError):
        await pulls[0]
    # What the first had of its own layer may be resumed.
    await until(lambda: all(name.endswith(BLOB_SUFFIX) for name in lab.staged()))


async def test_thirty_two_pulls_at_once_all_come(lab: ImageLab, proxy: FaultProxy, shelf: Shelf) -> None:
    base = noise(200_000)
    images = [image_of(base, noise(5_000), noise(2_000)) for _ in range(32)]
    for number, image in enumerate(images):
        shelf.add(f"a/{number}", image)
    fetched: list[FetchedImage] = await asyncio.gather(
        *(pull(lab, f"{proxy.host}/a/{number}:1") for number in range(32))
    )
    assert [one.id for one in fetched] == [image.id for image in images]
    asked = Counter(seen.path.rpartition("/")[2] for seen in proxy.of("layer"))
    assert set(asked.values()) == {1}
    assert lab.staged() == []
    assert len(lab.layers()) == 65


async def test_the_bandwidth_is_kept_to_over_all_transfers(
    tmp_path: Path, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(*[400_000] * 3)
    shelf.add("a/b", image)
    async with image_lab(tmp_path, bandwidth=2_000_000) as lab:
        began = time.monotonic()
        assert (await pull(lab, f"{proxy.host}/a/b:1")).id == image.id
        took = time.monotonic() - began
    assert 0.3 <= took < 30.0, f"1.2 MB at 2 MB/s took {took:.2f} s"


async def test_progress_is_told_for_each_layer_with_its_host(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(400_000, 300_000)
    shelf.add("a/b", image)
    await pull(lab, f"{proxy.host}/a/b:1")
    for layer in image.layers:
        steps = [step for step in lab.told if step.layer == layer.diff_id]
        assert [step.done for step in steps] == sorted(step.done for step in steps)
        assert (steps[-1].stage, steps[-1].done, steps[-1].total) == (
            "done",
            len(layer.blob),
            len(layer.blob),
        )
        assert proxy.host in {step.host for step in steps}
    lab.told.clear()
    await pull(lab, f"{proxy.host}/a/b:1")
    assert {step.stage for step in lab.told if step.layer} == {"present"}


async def test_a_cancelled_pull_keeps_what_can_be_resumed_and_nothing_else(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    image = noise_image(3_000_000, 1000)
    shelf.add("a/b", image)
    name, victim = f"{proxy.host}/a/b:1", victim_of(image)
    proxy.add(victim, cut(1_500_000, "stall"), times=1)
    request = asyncio.ensure_future(pull(lab, name))
    await until_size(Path(lab.paths.staging, blob_name(victim)), 1_500_000)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    # The worker hears of it afterwards.
    await until(lambda: all(name.endswith(BLOB_SUFFIX) for name in lab.staged()))
    assert blob_name(victim) in lab.staged()
    proxy.clear()
    assert (await pull(lab, name)).id == image.id
    assert goes_on_at(proxy.of("layer", victim)[0], 1_500_000)


async def test_an_image_may_have_a_layer_twice_and_empty_ones(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    twice, nothing = noise(50_000), PackedLayer(bytes(1024), GZIP)
    image = image_of(twice, nothing, noise(1000), nothing, twice)
    shelf.add("a/b", image)
    fetched = await pull(lab, f"{proxy.host}/a/b:1")
    assert [layer.diff_id for layer in fetched.layers] == [layer.diff_id for layer in image.layers]
    assert len(proxy.of("layer", digest_of(twice.blob))) == 1
    assert len(lab.layers()) == 3
    assert len(await lab.store.mounts.acquire([layer.diff_id for layer in fetched.layers])) >= 2


async def test_a_config_that_lies_of_a_layer_is_found_out_and_spoils_no_other_image(
    lab: ImageLab, proxy: FaultProxy, shelf: Shelf
) -> None:
    honest = noise_image(50_000)
    blob = honest.layers[0].blob
    liar = BuiltImage((Liar(blob), honest.layers[0]), {}, (), honest.architecture)
    shelf.add("liar", liar)
    shelf.add("honest", honest)
    outcomes = await asyncio.gather(
        pull(lab, f"{proxy.host}/liar:1"), pull(lab, f"{proxy.host}/honest:1"), return_exceptions=True
    )
    assert isinstance(outcomes[0], Broken), outcomes[0]
    assert isinstance(outcomes[1], FetchedImage), outcomes[1]
    assert outcomes[1].id == honest.id
    assert len(lab.layers()) == 1


class Liar(BuiltLayer):
    """A layer of these bytes whose diff id is another's."""

    @property
    def diff_id(self) -> str:
        return "sha256:" + "d" * 64


@pytest.mark.nightly
async def test_an_image_of_very_many_layers_comes(lab: ImageLab, proxy: FaultProxy, shelf: Shelf) -> None:
    image = image_of(*(noise(500) for _ in range(120)))
    shelf.add("a/b", image)
    fetched = await pull(lab, f"{proxy.host}/a/b:1")
    assert len(await lab.store.mounts.acquire([layer.diff_id for layer in fetched.layers])) == 120
