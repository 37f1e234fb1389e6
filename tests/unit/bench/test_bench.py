"""The bench: its figures, its table, and a whole run against a fake runtime."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.bench import floors, lives, memory
from crib.bench import session as bench_session
from crib.bench.figures import Samples, figures, percentile, table
from crib.bench.image import write_archive
from crib.bench.options import BenchOptions, BenchPart
from crib.bench.target import BenchTarget, parse_named, peer_pid
from crib.client import Connection
from crib.client.errors import ClientError
from tests.unit.client.fake_runtime import World, serve


def test_figures_are_median_and_nearest_rank() -> None:
    found = figures([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.median, found.p99, found.low, found.high, found.count) == (3, 5, 1, 5, 5)
    with pytest.raises(ValueError, match="no samples"):
        figures([])


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-9)


def test_far_apart_samples_are_called_noisy() -> None:
    samples = Samples()
    for value in (1.0, 1.0, 5.0, 5.0, 9.0, 9.0):
        samples.add("Exec", "ms", "a", value)
        samples.add("Exec", "ms", "b", 2.0)
    assert samples.noisy() == ["Exec of a: half of the samples differ by 160%"]


def test_the_table_compares_each_runtime_with_the_first() -> None:
    samples = Samples()
    for value in (1.0, 2.0, 3.0):
        samples.add("Version", "ms", "a", value)
        samples.add("Version", "ms", "b", value * 2)
    samples.add("crun create", "ms", "floor", 5.0)
    assert table(samples, ["a", "b", "floor"]) == [
        "metric       unit  a median (p99)  b median (p99)   vs a  floor median (p99)  vs a",
        "Version      ms       2.00 (3.00)     4.00 (6.00)  2.00x                   -     -",
        "crun create  ms                 -               -      -                5.00     -",
    ]


@pytest.mark.parametrize("text", ["crib", "=x", "a=", ""])
def test_what_is_not_name_and_value_is_refused(text: str) -> None:
    with pytest.raises(ClientError, match="is not NAME=VALUE"):
        parse_named(text, "endpoint")


def test_the_archive_is_a_docker_archive_with_one_layer(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"\x7fELF")
    write_archive(f"{tmp_path}/a.tar", "localhost/x:1", str(program))
    with tarfile.open(tmp_path / "a.tar") as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]  # it is there
        assert manifest[0]["RepoTags"] == ["localhost/x:1"]
        layer = tar.extractfile(manifest[0]["Layers"][0])
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            assert inner.getmember("bin/sleep").linkname == "busybox"


@pytest.mark.parametrize("parent", ["/pods/pod{uid}", "kubepods-pod{uid}.slice"])
async def test_each_pod_has_a_cgroup_parent_of_its_own_at_one_level(parent: str, tmp_path: Path) -> None:
    connection = Connection(f"unix://{tmp_path}/s")
    target = BenchTarget("a", connection, str(tmp_path), "image", cgroup_parent=parent)
    first, second = (target.sandbox_config() for _ in range(2))
    await connection.close()
    assert first.linux.cgroup_parent != second.linux.cgroup_parent
    uid = first.metadata.uid
    written = uid.replace("-", "_") if parent.endswith(".slice") else uid
    assert first.linux.cgroup_parent == parent.replace("{uid}", written)


async def test_a_socket_tells_its_process(tmp_path: Path) -> None:
    server = await serve(f"{tmp_path}/s", World())
    assert peer_pid(f"unix://{tmp_path}/s") == os.getpid()
    await server.stop(None)
    assert peer_pid(f"unix://{tmp_path}/none") == 0


def test_helpers_are_what_names_an_id_or_descends_from_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {
        10: ["conmon", "-c", "abc"],
        11: ["sleep", "86399"],
        12: ["pause"],
        13: ["other"],
        14: ["worker"],
        15: [],
    }
    parents = {10: 1, 11: 10, 12: 10, 13: 1, 14: 7, 15: 10}
    monkeypatch.setattr(memory, "_command_line", lambda pid: lines[pid])
    monkeypatch.setattr(memory, "_field", lambda path, name: parents[int(path.split("/")[2])])
    assert memory.helpers_of(7, {"abc"}, set(lines)) == [10, 12, 14]


async def test_a_run_measures_every_call_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(bench_session, "LIVES", {1: 1, 2: 2})
    (tmp_path / "tmp").mkdir()
    worlds = [World(), World()]
    servers = [await serve(f"{tmp_path}/{number}", world) for number, world in enumerate(worlds)]
    worlds[0].add_image("localhost/crib-bench:latest")
    options = BenchOptions(
        endpoints=[f"a=unix://{tmp_path}/0", f"b={tmp_path}/1"], number=2, pods=3, json=f"{tmp_path}/out.json"
    )
    await bench_session.run(options, "unused")
    for server in servers:
        await server.stop(None)
    out = capsys.readouterr().out
    for metric in (
        "RunPodSandbox",
        lives.READY,
        lives.GONE,
        "lifecycle, concurrency 2",
        "ListContainers, 3 pods",
        "ListPodSandboxStats, 3 pods",
        "Version while ListPodSandboxStats is called",
    ):
        assert metric in out
    found = json.loads(Path(f"{tmp_path}/out.json").read_text())
    versions = [r for r in found["results"] if r["metric"] == "Version"]
    assert [(r["runtime"], r["count"]) for r in versions] == [("a", 2), ("b", 2)]
    assert not worlds[0].pods
    assert not worlds[1].pods
    assert len(worlds[0].images) == 1
    assert not worlds[1].images  # it was imported for the bench
    assert os.listdir(tmp_path / "tmp") == []


async def test_a_run_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    server = await serve(f"{tmp_path}/s", world)
    world.add_image("localhost/crib-bench:latest")
    world.exec_reply.exit_code = 1
    options = BenchOptions(endpoints=[f"a={tmp_path}/s"], only=[BenchPart.LIFECYCLE])
    with pytest.raises(ClientError, match="a: true exited with 1"):
        await bench_session.run(options, "unused")
    await server.stop(None)
    assert not world.pods


@pytest.mark.root
def test_floors_leave_nothing(tmp_path: Path) -> None:
    found = floors.Floors(str(tmp_path))
    found.prepare()
    try:
        times = found.live()
    finally:
        found.clean()
    assert set(times) >= {"crun create", "crun start", "crun exec true", "conmon + crun create"}
    assert all(value > 0 for value in times.values())
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{floors.CGROUP}*"))
