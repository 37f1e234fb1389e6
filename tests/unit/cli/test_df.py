"""`crib df`: what is summed, and what is shown."""

from __future__ import annotations

import json

import pytest

from crib.cli.forms import Format
from crib.cli.session import CliSession
from crib.cli.usage import df
from crib.cli.usage.df import Total, totals
from crib.cli.usage_options import DfOptions
from crib.client import node
from crib.stubs.node.v1 import node_pb2 as pb

MIB = 1 << 20
FOUND = pb.DiskUsageResponse(
    layers=[
        pb.LayerUse(diff_id="sha256:a", bytes=8 * MIB, images=2, containers=1),
        pb.LayerUse(diff_id="sha256:b", bytes=2 * MIB, images=1, reclaimable=True),
    ],
    images=[
        pb.ImageUse(
            image_id="sha256:" + "1" * 64, names=["a.example/web:1"], bytes=10 * MIB, own_bytes=2 * MIB
        ),
        pb.ImageUse(image_id="sha256:" + "2" * 64, bytes=8 * MIB, containers=2, pinned=True),
    ],
    containers=[
        pb.ContainerUse(
            container_id="c1",
            pod_sandbox_id="p" * 64,
            pod="default/web",
            name="server",
            image_id="sha256:" + "2" * 64,
            writable_bytes=MIB,
            writable_inodes=7,
            log_bytes=3 * MIB,
        ),
        pb.ContainerUse(
            container_id="c2",
            pod_sandbox_id="p" * 64,
            pod="default/web",
            name="setup\x1b",
            ended=True,
            writable_bytes=2 * MIB,
            writable_inodes=1,
        ),
    ],
    half_made_bytes=5,
    records={"/d/crib.db": 4096},
    total_bytes=100 * MIB,
    free_bytes=40 * MIB,
)


def test_totals_say_what_could_be_had_back() -> None:
    assert totals(FOUND) == [
        Total("layers", 2, 10 * MIB, 2 * MIB),
        Total("half-made layers", 0, 5),
        Total("writable layers", 2, 3 * MIB, 2 * MIB),
        Total("logs", 1, 3 * MIB, 0),
        Total("records", 1, 4096),
    ]


def test_a_size_that_is_not_known_makes_no_sum() -> None:
    found = pb.DiskUsageResponse(containers=[*FOUND.containers, pb.ContainerUse(container_id="c3")])
    assert totals(found)[2] == Total("writable layers", 3, None, 2 * MIB)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> CliSession:
    """One whose node answers with `FOUND`."""

    async def answer(connection: object) -> pb.DiskUsageResponse:
        return FOUND

    monkeypatch.setattr(node, "disk_usage", answer)
    monkeypatch.setattr("crib.client.Connection._check_socket", lambda connection: None)
    return CliSession("unix:///nowhere")


async def test_the_summary_comes_first_and_details_on_demand(
    session: CliSession, capsys: pytest.CaptureFixture[str]
) -> None:
    await df.df(session, DfOptions())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["layers", "2", "10.0", "MiB", "2.0", "MiB"]
    assert lines[-1].split() == ["free", "on", "the", "disk", "40.0", "MiB", "of", "100.0", "MiB"]
    await df.df(session, DfOptions(verbose=True))
    text = capsys.readouterr().out
    assert "a.example/web:1   111111111111   10.0 MiB   2.0 MiB   8.0 MiB   0" in text
    assert "2, pinned" in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[-3].split() == ["default/web", "-", "-", "3.0", "MiB", "8", "3.0", "MiB", "-"]
    assert lines[-1].split()[:6] == ["default/web", "setup?", "Exited", "2.0", "MiB", "1"]


async def test_programs_get_every_number(session: CliSession, capsys: pytest.CaptureFixture[str]) -> None:
    await df.df(session, DfOptions(output=Format.JSON))
    found = json.loads(capsys.readouterr().out)
    assert found["layers"][1]["reclaimable"]
    assert "logBytes" not in found["containers"][1]
    assert found["records"] == {"/d/crib.db": "4096"}
