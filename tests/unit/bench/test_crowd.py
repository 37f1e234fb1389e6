"""`crib bench crowd` against fake runtimes: what it measures, and what it leaves when callers fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crib.bench import crowd
from crib.bench.callers import Order
from crib.bench.crowd import CallerProcess
from crib.bench.options import CrowdOptions, CrowdPart
from crib.bench.target import BenchTarget
from crib.client.errors import ClientError
from tests.fakes.world import bounded
from tests.unit.client.fake_runtime import World, serve


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crowd, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(crowd, "PROCESSES", 2)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


async def test_a_crowd_lives_and_lists_while_version_is_called_and_leaves_nothing(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    world.add_image("localhost/crib-bench:latest")
    out = tmp_path / "figures.json"
    options = CrowdOptions(
        endpoints=[f"a={tmp_path}/s"], callers=[3], number=7, seconds=0.2, rounds=2, json=str(out)
    )
    await crowd.run(options, "unused")
    await server.stop(None)
    counts = {row["metric"]: row["count"] for row in json.loads(out.read_text())["results"]}
    for label in ("3 callers, lives", "3 callers, lists"):
        assert counts[label] == 2
        assert counts[f"Version, {label}"] >= 2
    assert counts["Version, nobody else"] >= 1
    assert world.calls.count("RunPodSandbox") == 14
    assert not world.pods
    assert os.listdir(tmp_path / "tmp") == []


async def test_a_caller_that_fails_is_told_and_no_pod_of_any_is_left(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    order = Order(f"unix://{tmp_path}/s", str(tmp_path), "localhost/x:1", "missing", callers=3, lives=3)
    async with bounded():
        process = await CallerProcess.started(order)
        process.begin()
        with pytest.raises(ClientError, match="missing"):
            await process.done()
        await process.end()
    await server.stop(None)
    assert not world.pods


async def test_callers_whose_bench_is_gone_remove_their_pods(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    world.add_image("localhost/x:1")
    order = Order(f"unix://{tmp_path}/s", str(tmp_path), "localhost/x:1", "", callers=2, lives=1_000_000)
    async with bounded():
        process = await CallerProcess.started(order)
        process.begin()
        await world.calls.heard("RunPodSandbox")
        await process.end()
    await server.stop(None)
    assert not world.pods


async def test_a_runtime_that_is_not_there_is_told(tmp_path: Path) -> None:
    order = Order(f"unix://{tmp_path}/none", str(tmp_path), "x", "", callers=1, lives=1)
    with pytest.raises(ClientError, match="ended early"):
        await CallerProcess.started(order)


def test_work_is_shared_among_processes_evenly(tmp_path: Path) -> None:
    bench = crowd.CrowdBench(CrowdOptions(number=7), "unused")
    try:
        target = BenchTarget("a", _Endpoint(), str(tmp_path), "image")  # type: ignore[arg-type]  # its endpoint is all that is read
        lives = bench._orders(target, CrowdPart.LIVES, 3)
        assert [(order.callers, order.lives, order.seconds) for order in lives] == [(2, 4, 0), (1, 3, 0)]
        lists = bench._orders(target, CrowdPart.LISTS, 1)
        assert [(order.callers, order.lives, order.seconds) for order in lists] == [(1, 0, 10)]
    finally:
        os.rmdir(bench._place.directory)


class _Endpoint:
    endpoint = "unix:///x"
