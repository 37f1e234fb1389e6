"""Sizes of writable layers: exact, kept for a while, and never waited for long."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from crib.backends.pods import layer_sizes
from crib.backends.pods.layer_sizes import LayerSizes
from crib.host.files import DiskUsage
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from tests.fakes.world import bounded

ONE, OTHER = ContainerId("1" * 64), ContainerId("2" * 64)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(str(tmp_path / "data"), str(tmp_path / "state"))
    for container in (ONE, OTHER):
        os.makedirs(f"{paths.writable_layer(container)}/upper/below")
    return paths


def blocks(*trees: str) -> tuple[int, int]:
    """Bytes and inodes, as du(1) counts them."""
    found = [path for tree in trees for path in (Path(tree), *Path(tree).rglob("*"))]
    return sum(os.lstat(path).st_blocks * 512 for path in found), len(found)


async def test_a_layer_is_its_files_and_the_volumes_that_its_image_declares(paths: Paths) -> None:
    layer = paths.writable_layer(ONE)
    Path(layer, "upper/below/file").write_bytes(b"x" * 10_000)
    os.makedirs(f"{paths.declared_volumes(ONE)}/0")
    Path(paths.declared_volumes(ONE), "0", "data").write_bytes(b"x" * 50_000)
    async with bounded():
        found = await LayerSizes(paths).of((ONE, OTHER))
    assert found.keys() == {ONE, OTHER}
    expected = blocks(f"{layer}/upper", paths.declared_volumes(ONE))
    assert (found[ONE].used_bytes, found[ONE].inodes_used) == expected
    assert found[OTHER].inodes_used == 2


async def test_a_figure_is_kept_for_a_while_and_says_of_when_it_is(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = LayerSizes(paths)
    async with bounded():
        first = (await sizes.of((ONE,)))[ONE]
        Path(paths.writable_layer(ONE), "upper/file").touch()
        assert (await sizes.of((ONE,)))[ONE] is first
        monkeypatch.setattr(layer_sizes, "FRESH", 0.0)
        monkeypatch.setattr(layer_sizes, "SHARE", 0)
        second = (await sizes.of((ONE,)))[ONE]
    assert second.inodes_used == first.inodes_used + 1
    assert second.at > first.at


async def test_a_disk_that_does_not_answer_is_asked_once_and_its_answer_counts_later(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), list[str]()

    def measure(path: str, most: int) -> DiskUsage:
        asked.append(path)
        assert answers.wait(20)
        return DiskUsage(512, 1)

    monkeypatch.setattr(layer_sizes, "disk_usage", measure)
    monkeypatch.setattr(layer_sizes, "WAIT", 0.05)
    sizes = LayerSizes(paths)
    try:
        async with bounded():
            assert await sizes.of((ONE,)) == {}, "absent, not zero"
            assert await sizes.of((ONE,)) == {}
            assert len(asked) == 1, "a thread waits for it already"
            answers.set()
            found = await sizes.of((ONE,))
            for _ in range(1000):
                if found:
                    break
                await asyncio.sleep(0.01)  # the thread tells nobody
                found = await sizes.of((ONE,))
        assert found[ONE].used_bytes == 1024
    finally:
        answers.set()


async def test_what_is_gone_is_forgotten_also_while_it_is_measured(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = LayerSizes(paths)

    def measure(path: str, most: int) -> DiskUsage:
        sizes.forget(ONE)
        return DiskUsage(512, 1)

    async with bounded():
        await sizes.of((ONE, OTHER))
        sizes.forget(OTHER)
        assert sizes._known.keys() == {ONE}
        sizes.forget(ONE)
        monkeypatch.setattr(layer_sizes, "disk_usage", measure)
        assert await sizes.of((ONE,)) == {}
        assert (sizes._known, sizes._under_way) == ({}, set())
