"""Whoever dies at whichever step: the volume is whole, or gone, and nothing of it is left over."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crib.backends.volumes.csi import driver
from crib.host.mount_table import mounts_below
from crib.tasks.groups import Beside
from tests.csi_driver import Books, Fault, as_json
from tests.csi_lab import CsiLab, volume_use
from tests.fakes.world import bounded
from tests.unit.backends.csi.steps import STEPS, USE, step, up_to

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[4]
RESTARTS = 60.0
"""Seconds for which a driver may be away while it is started again, on a slow machine."""


@pytest.mark.parametrize("call", STEPS)
async def test_what_a_killed_daemon_had_asked_for_is_undone_by_the_next(lab: CsiLab, call: str) -> None:
    """The driver goes on with the call, which nobody waits for any more."""
    life = lab.life()
    await up_to(life, call)
    lab.fault(call, "slow")
    async with bounded(), Beside() as beside:
        work = beside.start("killed", step(call)(life))
        await lab.driver.reached.wait()
        work.cancel()
        await asyncio.wait({work})
        lab.kind = lab.begin()
        next_one = beside.start("the next daemon", life.tear_down())
        lab.driver.release.set()
        await next_one
    assert lab.driver.books.data == {"volumes": {}, "snapshots": {}}
    assert mounts_below(str(lab.root)) == []
    for place in (lab.paths.volumes, lab.paths.volume_mounts):
        assert not os.path.isdir(place) or os.listdir(place) == []


@asynccontextmanager
async def driver_program(lab: CsiLab) -> AsyncIterator[None]:
    """Started again whenever it has died, as a supervisor would."""
    arguments = [sys.executable, "-m", "tests.csi_driver", lab.socket, str(lab.root / "driver")]
    running: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [*arguments, as_json(lab.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        )
        running.append(program)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        return program

    async def keep(program: subprocess.Popen[str]) -> None:
        while True:
            await asyncio.to_thread(program.wait)
            program = await asyncio.to_thread(start)

    async with Beside() as beside:
        keeping = beside.start("supervisor", keep(await asyncio.to_thread(start)))
        try:
            yield
        finally:
            keeping.cancel()
            for program in running:
                program.kill()
                program.communicate()


@pytest.mark.parametrize("kind", ["kill-before", "kill-after"])
async def test_a_driver_that_is_killed_at_each_step_is_asked_again_when_it_is_back(
    private_root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(driver, "ABSENT_SECONDS", RESTARTS)
    monkeypatch.setattr(driver, "LONGEST_PAUSE", 0.1)
    lab = CsiLab(private_root, timeout=4 * RESTARTS)
    lab.options.faults = [Fault(call, kind) for call in STEPS]
    life = lab.life()
    async with driver_program(lab):
        await life.create()
        await life.stage()
        path = Path(await life.publish(USE))
        (path / "row").write_text("kept")
        reader = volume_use("reader")
        assert (Path(await life.publish(reader)) / "row").read_text() == "kept"
        await life.tear_down()
    books = Books(lab.root / "driver")
    assert sorted(path.name for path in books.root.glob("died-in-*")) == sorted(
        f"died-in-{one}" for one in STEPS
    )
    assert (books.data, books.breaches()) == ({"volumes": {}, "snapshots": {}}, [])
    assert mounts_below(str(lab.root)) == []
