"""`crib bench day` against fake runtimes: the rhythm, its figures, and what it leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crib.bench import day
from crib.bench.options import DayOptions
from crib.client.errors import ClientError
from tests.unit.client.fake_runtime import World, serve


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RELIST", "RUNTIME_STATUS", "STATISTICS"):
        monkeypatch.setattr(day, name, 0.05)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


async def test_a_day_asks_what_a_kubelet_asks_and_leaves_nothing(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    world.add_image("localhost/crib-bench:latest")
    out = tmp_path / "figures.json"
    options = DayOptions(
        endpoints=[f"a={tmp_path}/s"],
        pids=[f"a={os.getpid()}"],
        pods=3,
        seconds=1,
        probe=0.1,
        rounds=2,
        json=str(out),
    )
    try:
        await day.run(options, "unused")
    finally:
        await server.stop(None)
    rows = {row["metric"]: row for row in json.loads(out.read_text())["results"]}
    for label in ("daemon", "bench itself", "machine"):
        assert (rows[f"CPU of the {label}, a minute"]["count"], label) == (2, label)
    assert rows["exec probe"]["count"] >= 6
    assert {"relist", "statistics"} <= set(rows)
    assert world.calls.count("RunPodSandbox") == 6
    assert not world.pods
    assert os.listdir(tmp_path / "tmp") == []


async def test_a_pod_that_cannot_start_ends_the_day_and_none_is_left(tmp_path: Path) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    world.add_image("localhost/crib-bench:latest")
    try:
        with pytest.raises(ClientError, match="missing"):
            await day.run(DayOptions(endpoints=[f"a={tmp_path}/s"], handler="missing", pods=2), "unused")
    finally:
        await server.stop(None)
    assert not world.pods
    assert os.listdir(tmp_path / "tmp") == []
