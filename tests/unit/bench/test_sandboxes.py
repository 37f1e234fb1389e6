"""The bench's sandboxes by the dozen, and the floor of a CNI network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crib.bench import session as bench_session
from crib.bench.floors import CniFloor, FloorError
from crib.bench.options import BenchOptions, BenchPart
from tests.unit.client.fake_runtime import World, serve

PLUGINS = "/usr/lib/cni"


async def test_sandboxes_are_timed_phase_by_phase_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    world.add_image("localhost/crib-bench:latest")
    monkeypatch.setattr(bench_session, "LIVES", {2: 5})
    out = tmp_path / "figures.json"
    options = BenchOptions(endpoints=[f"a={tmp_path}/s"], rounds=2, only=[BenchPart.SANDBOXES], json=str(out))
    await bench_session.run(options, "unused")
    await server.stop(None)
    counts = {row["metric"]: row["count"] for row in json.loads(out.read_text())["results"]}
    for call in ("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"):
        assert counts[f"{call}, 2 at once"] == 10
        assert counts[f"{call}, 2 at once, machine CPU for one pod"] == 2
    assert not world.pods


@pytest.mark.root
def test_the_floor_of_a_cni_network_attaches_and_detaches_and_leaves_nothing(tmp_path: Path) -> None:
    conf = tmp_path / "net.conflist"
    ipam = {"type": "host-local", "dataDir": f"{tmp_path}/store", "ranges": [[{"subnet": "10.214.7.0/24"}]]}
    plugins = [{"type": "ptp", "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "floor", "plugins": plugins}))
    floor = CniFloor(str(conf), (PLUGINS,))
    floor.prepare()
    try:
        times = floor.live()
    finally:
        floor.clean()
    assert set(times) == {"RunPodSandbox", "StopPodSandbox"}
    assert all(value > 0 for value in times.values())
    assert not [name for name in os.listdir(f"{tmp_path}/store/floor") if name.startswith("10.")]
    assert not [name for name in os.listdir("/run/netns") if name.startswith(f"crib-bench-{os.getpid()}")]


@pytest.mark.root
@pytest.mark.parametrize(
    ("text", "words"),
    [("{}", "is not a list of CNI plugins"), ('{"plugins": [{"type": "none"}]}', "no plugin none in")],
)
def test_a_network_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    conf = tmp_path / "net.conflist"
    conf.write_text(text)
    with pytest.raises(FloorError, match=words):
        CniFloor(str(conf), (PLUGINS,)).prepare()
