"""The example plugins with the real daemon: what they want of containers is what the containers have."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crib import nri
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tasks.groups import Beside
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.node_plugins import takes_part
from tests.unit.nri.lab import EXAMPLES, pin

pytestmark = [pytest.mark.root, pytest.mark.system]
ROOT = Path(__file__).parents[3]
LIMITED = {"open-files.example.com/box": "1111"}
CPU = 100_000
"""Microseconds of one CPU in the usual period."""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    """An example is installed: itself, after a line that finds the library where these tests have it."""
    found = f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
    with running_cribd() as daemon:
        daemon.stop()
        daemon.plugins.mkdir()
        program = daemon.plugins / "10-open-files"
        program.write_text(found + (EXAMPLES / "open_files.py").read_text())
        program.chmod(0o755)
        daemon.start()
        yield daemon
        daemon.stop()
        program.unlink()
        daemon.plugins.rmdir()


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@asynccontextmanager
async def plugin_of(cri: Cri, plugin: nri.NodePlugin) -> AsyncIterator[None]:
    options = nri.PluginOptions(nri.PluginIdentity("example", "10"), str(cri.cribd.plugin_socket))
    async with Beside() as beside:
        beside.start("plugin", nri.serve(plugin, options))
        await takes_part(cri, "10-example")
        yield


async def test_an_installed_plugin_sets_how_many_files_a_container_may_open(cri: Cri) -> None:
    await takes_part(cri, "10-open-files")
    pod = await cri.run_pod("web", annotations=LIMITED)
    box = await cri.run_container(pod, "sleep", "600")
    assert await cri.sh(box, "ulimit -n") == "1111"
    other = await cri.run_container(pod, "sleep", "600", name="other")
    assert await cri.sh(other, "ulimit -n") != "1111"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core of its own needs a second one")
async def test_a_container_that_asks_for_a_whole_cpu_has_it_alone(cri: Cri) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    whole = pb.LinuxContainerResources(
        cpu_quota=CPU, cpu_period=CPU, cpu_shares=1024, memory_limit_in_bytes=64 << 20
    )
    shown = "grep Cpus_allowed_list /proc/self/status | cut -f2"
    pod = await cri.run_pod("web")
    before = await cri.run_container(pod, "sleep", "600", name="before")
    async with plugin_of(cri, pin.PinCpus([pin.Core(0, (first,)), pin.Core(0, (second,))])):
        pinned = await cri.run_container(pod, "sleep", "600", name="pinned", resources=whole)
        assert await cri.sh(pinned, shown) == str(second)
        assert await cri.sh(before, shown) == str(first)
        await cri.stop_container(pinned)

        async def is_shared_again() -> bool:
            return bool(await cri.sh(before, shown) == pin.write_list((first, second)))

        await until(is_shared_again)
