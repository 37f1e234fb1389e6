"""A driver of the Kubernetes project, in Go: csi-driver-host-path.

It is built elsewhere: CRIB_CSI_DRIVER names its program (`hostpathplugin`).
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.host.mount_table import mounts_below
from tests import csi_lab
from tests.csi_lab import CsiLab, volume_use
from tests.fakes.world import bounded

PROGRAM = os.environ.get("CRIB_CSI_DRIVER", "")
pytestmark = [pytest.mark.root, pytest.mark.skipif(not PROGRAM, reason="CRIB_CSI_DRIVER names no program")]
NAME = "hostpath.csi.k8s.io"
SIZE = 10 << 20


@pytest.fixture
async def lab(private_root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CsiLab]:
    monkeypatch.setattr(csi_lab, "NAME", NAME)
    lab = CsiLab(private_root)
    state = private_root / "hostpath"
    options = ["-nodeid", "node-1", "-enable-attach=true", "-check-volume-lifecycle=true"]
    program = subprocess.Popen(  # noqa: ASYNC220  it forks, and waits for nothing
        [PROGRAM, "-endpoint", f"unix://{lab.socket}", "-statedir", str(state), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with bounded():
            while not (await lab.kind.readiness(NAME)).ready:  # noqa: ASYNC110  it tells nobody when it listens
                await asyncio.sleep(0.05)
        yield lab
        assert mounts_below(str(private_root)) == []
        assert not os.path.isdir(lab.paths.volume_mounts) or os.listdir(lab.paths.volume_mounts) == []
    finally:
        program.kill()
        await asyncio.to_thread(program.wait)


@pytest.mark.parametrize("block", [False, True])
async def test_a_volume_lives_with_it_and_each_call_may_come_twice(lab: CsiLab, block: bool) -> None:
    life, use = lab.life(capacity=SIZE, block=block), volume_use()
    await life.create()
    assert (await lab.kind.create(life.record, None)).handle == life.record.handle
    await life.stage()
    await life.stage()
    path = Path(await life.publish(use))
    assert str(path) == await life.publish(use)
    assert stat.S_ISBLK(path.stat().st_mode) is block
    if not block:
        (path / "row").write_text("then")
    assert (await lab.kind.usage(life.record)).total
    assert await lab.kind.expand(life.record, 2 * SIZE) == 2 * SIZE
    snapshot = lab.snapshot_of(life.record)
    made = await lab.kind.snapshot(life.record, snapshot)
    snapshot = replace(snapshot, handle=made.handle, size=made.size)
    restored = lab.life(snapshot=snapshot.id, block=block)
    await restored.create(snapshot)
    await restored.stage()
    other = Path(await restored.publish(use))
    if not block:
        assert (other / "row").read_text() == "then"
    await restored.tear_down()
    await lab.kind.delete_snapshot(snapshot)
    await lab.kind.delete_snapshot(snapshot)
    await life.unpublish(use)
    await life.unpublish(use)
    await life.unstage()
    await life.unstage()
    await lab.kind.expand(life.record, 3 * SIZE)
    await life.stage()
    await life.publish(use)
    await life.tear_down()
    await life.delete()


async def test_an_inline_volume_lives_with_it(lab: CsiLab) -> None:
    life, use = lab.life(inline=True), volume_use()
    await life.create()
    (Path(await life.publish(use)) / "row").write_text("1")
    await life.unpublish(use)
    await lab.kind.unpublish(life.record, use)
    await life.delete()
