"""A registry with every fault we could think of, in front of a real one: a pull goes on, or says who failed
and where."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crib.model.errors import REGISTRY_UNAVAILABLE, Broken, CribError, NotFound, Unavailable
from tests.fault_proxy import Fault, FaultProxy, running_proxy
from tests.faults import (
    cut,
    document,
    drip,
    flip,
    gzipped,
    in_seconds,
    longer,
    media_type,
    no_head,
    no_ranges,
    other_range,
    redirect,
    redirect_to,
    status,
    too_many,
)
from tests.images import GZIP, BuiltImage, digest_of, push
from tests.registry import running_registry
from tests.system.labs.image_lab import ImageLab, image_lab
from tests.system.labs.registry_lab import (
    QUICK,
    STALLING,
    image_of,
    left_nothing,
    noise,
    noise_image,
    pull,
    refused,
)
from tests.upstreams import Shelf, from_url

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

BOUND = 25.0
"""Seconds after which a pull hangs: what stalls here does so for 30 (tests/fault_proxy.py)."""
MEMBER = 60_000
HUGE = (8 << 20) + 1


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
def proxy(registry: str) -> Iterator[FaultProxy]:
    with running_proxy(from_url(registry)) as running:
        yield running


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(tmp_path / "quick", **QUICK) as made:
        yield made


@pytest.fixture
async def stalling(tmp_path: Path) -> AsyncIterator[ImageLab]:
    async with image_lab(tmp_path / "stalling", **STALLING) as made:
        yield made


def image() -> BuiltImage:
    """A layer of several gzip members, and one that is not packed."""
    return image_of(noise(150_000, GZIP, MEMBER), noise(70_000))


async def test_registries_that_drip_hold_up_no_image_of_another_and_none_of_their_own(lab: ImageLab) -> None:
    shelf = Shelf()
    small = noise_image(50_000)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(running_proxy(shelf)) for _ in range(3)]
        other = stack.enter_context(running_proxy(shelf))
        held = []
        for number, proxy in enumerate(slow):
            shelf.add(f"big/{number}", noise_image(600_000, 500_000, 400_000))
            proxy.add("layer", cut(100_000, "stall"))
            held.append(asyncio.ensure_future(pull(lab, f"{proxy.host}/big/{number}:1")))
        for proxy in slow:
            await asyncio.to_thread(proxy.wait_for, lambda one: len(one.of("layer")) == 3)
        shelf.add("small", small)
        slow[0].clear()
        async with asyncio.timeout(BOUND):
            for proxy in (other, slow[0]):
                assert (await pull(lab, f"{proxy.host}/small:1")).id == small.id
                await lab.store.sweep([])
        assert not any(task.done() for task in held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@dataclass
class Scene:
    """A registry with one new image behind the proxy, once for each case."""

    registry: str
    proxy: FaultProxy
    quick: ImageLab
    stalling: ImageLab
    lab: ImageLab = field(init=False)
    """The one for the case: without patience only where the case is that nothing comes."""
    count: int = 0

    def begin(self, case: str) -> tuple[BuiltImage, str]:
        """An image that was never here, and its name."""
        self.count += 1
        self.lab = self.stalling if any(one in case for one in STALLS) else self.quick
        self.proxy.clear()
        self.lab.told.clear()
        built = image()
        repository = f"{''.join(letter for letter in case.lower() if letter.isalnum())}/{self.count}"
        push(self.registry, built, repository, "1")
        return built, f"{self.proxy.host}/{repository}:1"


@pytest.fixture
def scene(registry: str, proxy: FaultProxy, lab: ImageLab, stalling: ImageLab) -> Scene:
    return Scene(registry, proxy, lab, stalling)


STALLS = ("stalled", "stalls", "one byte now and then")
"""What the cases have in their names in which nothing comes, or too little."""


Cut = Callable[[BuiltImage], Fault]

PASSING: dict[str, Cut] = {
    "500": lambda built: status(500),
    "502": lambda built: status(502),
    "503": lambda built: status(503),
    "504": lambda built: status(504),
    "closed before the head": lambda built: no_head(),
    "reset before the head": lambda built: no_head("reset"),
    "reset after the head": lambda built: cut(0, "reset"),
    "reset after the first byte": lambda built: cut(1, "reset"),
    "reset in the middle": lambda built: cut(60_000, "reset"),
    "reset before the last byte": lambda built: cut(-1, "reset"),
    "reset between two members": lambda built: cut(len(built.layers[0].members[0]), "reset"),  # type: ignore[attr-defined]
    "closed in the middle": lambda built: cut(60_000),
    "closed without a length": lambda built: cut(60_000, length=-1),
    "closed at once without a length": lambda built: cut(0, length=-1),
    "stalled in the middle": lambda built: cut(60_000, "stall"),
    "stalled before the first byte": lambda built: cut(0, "stall"),
}


async def test_a_layer_goes_on_after_every_fault_that_passes(scene: Scene, subtests: pytest.Subtests) -> None:
    for case, fault in PASSING.items():
        with subtests.test(case):
            built, name = scene.begin(case)
            blob = built.layers[0].blob
            scene.proxy.add(digest_of(blob), fault(built), times=1)
            assert (await pull(scene.lab, name)).id == built.id
            left_nothing(scene.lab)
            asked = scene.proxy.of("layer", digest_of(blob))
            assert len(asked) == 2
            first, second = asked
            if "reset" in case:  # what was still under way is lost with the connection
                assert first.sent + second.sent >= len(blob)
                continue
            if first.sent:
                assert second.range.startswith(f"bytes={first.sent}-"), "what had come was not used"
            assert first.sent + second.sent == len(blob)


async def test_a_registry_that_is_busy_is_asked_again_when_it_said(
    scene: Scene, subtests: pytest.Subtests
) -> None:
    for what, after, least in (
        *(("manifest", "1", 1.0), ("manifest", None, 0.2)),
        *(("layer", "date", 0.0), ("config", "0", 0.0)),
    ):
        with subtests.test(f"{what} {after}"):
            built, name = scene.begin(f"busy {what} {after}")
            text = in_seconds(0.1) if after == "date" else after
            scene.proxy.add(built.id if what == "config" else what, too_many(text), times=1)
            began = time.monotonic()
            assert (await pull(scene.lab, name)).id == built.id
            assert least <= time.monotonic() - began < BOUND
            first = next(one for one in scene.proxy.seen if one.status == 429)
            again = next(one for one in scene.proxy.seen if one.path == first.path and one.at > first.at)
            assert again.at - first.at >= least, "it came back before the time that was told"


async def test_a_registry_that_stays_busy_is_given_up_within_a_bound(scene: Scene) -> None:
    _, name = scene.begin("stays busy")
    scene.proxy.add("manifest", too_many("3600"))
    began = time.monotonic()
    error = await refused(scene.lab, name, Unavailable, "429", scene.proxy.host, "manifest")
    assert time.monotonic() - began < BOUND
    assert error.reason == REGISTRY_UNAVAILABLE
    assert len(scene.proxy.of("manifest")) == 1


async def test_every_range_that_is_not_what_was_asked_is_found_out(
    scene: Scene, subtests: pytest.Subtests
) -> None:
    built, name = scene.begin("no ranges")
    victim = digest_of(built.layers[0].blob)
    with subtests.test("the second answer is all of it"):
        scene.proxy.add(victim, cut(60_000), times=1)
        scene.proxy.add(victim, no_ranges)
        assert (await pull(scene.lab, name)).id == built.id
    for shift in (1, -1, 4096):
        with subtests.test(f"the range is {shift} off"):
            built, name = scene.begin(f"other range {shift}")
            victim = digest_of(built.layers[0].blob)
            scene.proxy.add(victim, cut(60_000), times=1)
            scene.proxy.add(victim, other_range(shift))
            await refused(scene.lab, name, Unavailable, "another range", scene.proxy.host)


LASTING: dict[str, tuple[Fault, type[CribError], tuple[str, ...]]] = {
    "500": (status(500), Unavailable, ("500",)),
    "404": (status(404), NotFound, ("404",)),
    "403": (status(403), Unavailable, ("403", "credentials")),
    "401": (status(401), Unavailable, ("401", "credentials")),
    "418": (status(418), Unavailable, ("418",)),
    "redirects to itself": (redirect(""), Unavailable, ("redirects",)),
    "redirects to nowhere": (status(307), Unavailable, ("Location",)),
    "redirects to a file": (redirect_to("file:///etc/passwd"), Unavailable, ("http",)),
    "redirects to no host": (redirect_to("http://"), Unavailable, ()),
    "reset always": (no_head("reset"), Unavailable, ()),
    "stalls always": (cut(0, "stall"), Unavailable, ()),
}
LAYER_ONLY: dict[str, tuple[Fault, type[CribError], tuple[str, ...]]] = {
    "one byte is wrong": (flip(), Broken, ("damaged",)),
    "the first byte is wrong": (flip(0), Broken, ()),
    "more than the manifest says": (longer(), Broken, ("more than the",)),
    "less than the manifest says": (cut(60_000, length=60_000), Broken, ("less than the",)),
    "packed once more": (gzipped, Broken, ()),
    "one byte now and then": (drip(1, 0.05), Unavailable, ("stalled",)),
    "one byte now and then, later": (drip(1, 0.05, 60_000), Unavailable, ("stalled",)),
    "closed again and again": (cut(10), Unavailable, ("10 of",)),
    "reset again and again": (cut(10, "reset"), Unavailable, ()),
}


@pytest.mark.parametrize("stage", ["manifest", "layer", pytest.param("config", marks=pytest.mark.nightly)])
async def test_a_fault_that_lasts_is_told_with_stage_and_host(
    stage: str, scene: Scene, subtests: pytest.Subtests
) -> None:
    for case, (fault, kind, words) in {**LASTING, **(LAYER_ONLY if stage == "layer" else {})}.items():
        with subtests.test(case):
            built, name = scene.begin(f"lasting {stage} {case}")
            what = {"manifest": "manifest", "config": built.id, "layer": digest_of(built.layers[0].blob)}
            scene.proxy.add(what[stage], fault)
            began = time.monotonic()
            error = await refused(scene.lab, name, kind, stage, scene.proxy.host, *words)
            assert time.monotonic() - began < BOUND
            unavailable = kind is Unavailable and "credentials" not in words
            assert error.reason == (REGISTRY_UNAVAILABLE if unavailable else "")


def _index(body: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, **body}).encode()


DOCUMENTS: dict[str, tuple[Fault, type[CribError], str]] = {
    "garbage": (document(b"\0\xff{"), Broken, "malformed"),
    "an empty answer": (document(b""), Broken, "malformed"),
    "a page": (document(b"<html>log in</html>", "text/html"), Broken, "malformed"),
    "a list": (document(b"[]"), Broken, "malformed"),
    "nesting": (document(b"[" * 100_000), Broken, "malformed"),
    "schema 1": (document(b'{"schemaVersion":1,"fsLayers":[]}'), Broken, "schema 1"),
    "an index of nothing": (
        document(_index({"manifests": []}), "application/vnd.oci.image.index.v1+json"),
        Broken,
        "nothing for",
    ),
    "two ways": (document(_index({"manifests": [], "layers": []})), Broken, "two ways"),
    "huge": (document(b" " * HUGE), Unavailable, "more than"),
    "packed": (document(gzip.compress(b"{}" * 50)), Broken, "malformed"),
    "another digest than told": (flip(), Broken, "digest"),
    "cut off with a lying length": (cut(100, length=100), Broken, "digest"),
    "another type": (media_type("application/vnd.oci.image.index.v1+json"), Broken, "said to be"),
}


async def test_a_document_that_is_none_is_refused_with_the_reason(
    scene: Scene, subtests: pytest.Subtests
) -> None:
    for case, (fault, kind, words) in DOCUMENTS.items():
        with subtests.test(case):
            _, name = scene.begin(f"document {case}")
            scene.proxy.add("manifest", fault)
            await refused(scene.lab, name, kind, "manifest", words)


async def test_a_type_that_nobody_knows_does_not_matter(scene: Scene) -> None:
    built, name = scene.begin("octets")
    scene.proxy.add("any", media_type("application/octet-stream"))
    assert (await pull(scene.lab, name)).id == built.id


async def test_head_requests_are_not_needed(scene: Scene) -> None:
    built, name = scene.begin("head")
    scene.proxy.add("any", status(405), method="HEAD")
    assert (await pull(scene.lab, name)).id == built.id


@pytest.mark.parametrize(
    "stage", ["layer", *(pytest.param(stage, marks=pytest.mark.nightly) for stage in ("manifest", "config"))]
)
async def test_every_fault_of_a_mirror_is_made_good_by_the_next_host(
    stage: str, registry: str, proxy: FaultProxy, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with running_proxy(from_url(registry)) as second:
        mirrors = {"registry.invalid": (proxy.url, second.url)}
        async with (
            image_lab(tmp_path / "quick", mirrors=mirrors, **QUICK) as lab,
            image_lab(tmp_path / "stalling", mirrors=mirrors, **STALLING) as stalling,
        ):
            scene = Scene(registry, proxy, lab, stalling)
            cases = {**LASTING, **(LAYER_ONLY if stage == "layer" else {})}
            for case, (fault, _, _) in cases.items():
                with subtests.test(case):
                    built, name = scene.begin(f"mirror {stage} {case}")
                    proxy.add(built.id if stage == "config" else stage, fault)
                    name = name.replace(proxy.host, "registry.invalid")
                    began = time.monotonic()
                    assert (await pull(scene.lab, name)).id == built.id
                    assert time.monotonic() - began < BOUND
                    left_nothing(scene.lab)
