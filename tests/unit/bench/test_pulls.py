"""`crib bench pull` against fake runtimes: what it measures, what it refuses, what it leaves."""

# ruff: noqa: ASYNC110  # bounded

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crib.bench import memory, pulls, turns
from crib.bench.options import PullBenchOptions
from crib.client.errors import ClientError, NotFound
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve
from tests.unit.streaming.lab import BOUND


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr("os.sync", lambda: None)


async def test_a_run_measures_each_runtime_and_leaves_images_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worlds = [World(), World()]
    servers = [await serve(f"{tmp_path}/{number}", world) for number, world in enumerate(worlds)]
    worlds[0].add_image("reg/dir/big:1")
    options = PullBenchOptions(
        ["reg/dir/big:1", "reg/zstd:1"],
        endpoints=[f"a={tmp_path}/0", f"b={tmp_path}/1"],
        number=2,
        json=f"{tmp_path}/out.json",
    )
    await pulls.run(options, "unused")
    for server in servers:
        await server.stop(None)
    found = json.loads(Path(f"{tmp_path}/out.json").read_text())
    counts = {(r["metric"], r["runtime"]): r["count"] for r in found["results"]}
    for runtime in ("a", "b"):
        assert counts[("PullImage big:1, cold", runtime)] == 2
        assert counts[("PullImage zstd:1, cold, with sync(2)", runtime)] == 2
        assert counts[("PullImage big:1, present", runtime)] == 6
        assert counts[("RemoveImage big:1", runtime)] == 4
        assert counts[("machine CPU, PullImage big:1", runtime)] == 2
        assert counts[("ListImages", runtime)] == 40
        assert counts[("Version, PullImage big:1", runtime)] >= 2
        assert counts[("Version, nothing pulled", runtime)] >= 2
        assert counts[("daemon RSS peak, PullImage big:1", runtime)] == 2
    assert "b median (p99)" in capsys.readouterr().out
    assert [image.repo_tags[0] for image in worlds[0].images.values()] == ["reg/dir/big:1"]
    assert not worlds[1].images


async def test_an_image_is_cold_before_each_pull_that_is_called_so(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    await pulls.run(PullBenchOptions(["reg/a:1"], number=1), f"{tmp_path}/s")
    await server.stop(None)
    words = [call.split()[0] for call in world.calls]
    assert words == [
        "PullImage",  # not counted
        *("RemoveImage", "PullImage"),
        *["PullImage"] * pulls.PRESENT_PULLS,
        *("RemoveImage", "PullImage"),
        "RemoveImage",  # as it was before
    ]


async def test_a_pull_that_fails_ends_the_run_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    with pytest.raises(NotFound, match="no image reg/missing:1 in the registry"):
        await pulls.run(PullBenchOptions(["reg/missing:1"]), f"{tmp_path}/s")
    await server.stop(None)
    assert not world.images
    assert "is not as it was" not in capsys.readouterr().err


async def test_an_image_that_others_need_is_left_alone(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    image_id = world.add_image("reg/a:1")
    world.images[image_id].repo_tags.append("reg/b:1")
    with pytest.raises(ClientError, match="crib: reg/a:1 has other names too"):
        await pulls.run(PullBenchOptions(["reg/a:1"]), f"{tmp_path}/s")
    del world.images[image_id].repo_tags[1]
    world.containers["c1"] = cri.ContainerStatus(id="c1", image=cri.ImageSpec(image=image_id))
    world.owner["c1"] = "pod"
    with pytest.raises(ClientError, match="crib: reg/a:1 is used by container c1"):
        await pulls.run(PullBenchOptions(["reg/a:1"]), f"{tmp_path}/s")
    await server.stop(None)
    assert not [call for call in world.calls if call.startswith("RemoveImage")]


async def test_the_same_image_under_another_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    monkeypatch.setattr("zlib.crc32", lambda _: 1)
    world.add_image("reg/other:1", 1)
    with pytest.raises(ClientError, match="is already here under another name"):
        await pulls.run(PullBenchOptions(["reg/a:1"]), f"{tmp_path}/s")
    await server.stop(None)
    assert not [call for call in world.calls if call.startswith("RemoveImage")]


async def test_an_interrupted_pull_is_waited_for_and_its_image_removed(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    bench = pulls.PullBench(PullBenchOptions(["reg/a:1"]), f"{tmp_path}/s")
    running = asyncio.ensure_future(bench.run())
    async with asyncio.timeout(BOUND):
        while not world.pull_requests:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    await server.stop(None)
    assert not world.images


async def test_version_is_called_on_and_on_while_it_is_not_answered(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    endpoint = await turns.reach(f"a={tmp_path}/s", None)
    puller = pulls.Puller(endpoint, endpoint.connection)
    world.version_gate, before = asyncio.Event(), world.version_calls

    async def pull() -> None:
        assert world.version_gate is not None
        while world.version_calls < before + 5:
            await asyncio.sleep(0)
        world.version_gate.set()

    async with asyncio.timeout(BOUND):
        times = await puller._versions(pull())
    await endpoint.connection.close()
    await server.stop(None)
    assert len(times) >= 5
    assert max(times) >= 4 * 1000 * pulls.EVERY  # the first waited for all the others


async def test_a_pid_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="pid 'x' of a is not a number"):
        await turns.reach(f"a={tmp_path}/s", ["a=x"])


def test_images_whose_last_parts_are_alike_keep_their_names() -> None:
    assert pulls.short_names(["r/a:1", "r/b:1"]) == {"r/a:1": "a:1", "r/b:1": "b:1"}
    assert pulls.short_names(["r/a:1", "s/a:1"]) == {"r/a:1": "r/a:1", "s/a:1": "s/a:1"}


def test_a_peak_is_of_a_process_that_is_there() -> None:
    memory.forget_peak(os.getpid())
    assert memory.peak_rss_mib(os.getpid()) >= memory.rss_mib(os.getpid()) * 0.5 > 0
    memory.forget_peak(1 << 22)
    assert memory.peak_rss_mib(1 << 22) == 0


def test_the_worker_is_found_below_its_daemon() -> None:
    code = f"import sys; print(flush=True); sys.stdin.read()  # {memory.WORKER}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert memory.image_workers(os.getpid()) == [worker.pid]
        assert memory.image_workers(worker.pid) == []
