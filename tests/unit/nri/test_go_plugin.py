"""A plugin of the NRI project, in Go, at the other end of our multiplexer; by hand only.

CRIB_GO_PLUGIN=.../logger pytest tests/unit/nri/test_go_plugin.py
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.tasks.groups import Beside
from tests.fakes.nri_runtime import BOUND, FakeNriRuntime

PLUGIN = os.environ.get("CRIB_GO_PLUGIN", "")
pytestmark = pytest.mark.skipif(not PLUGIN, reason="CRIB_GO_PLUGIN does not name plugins/logger of NRI")


def started(socket: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([PLUGIN, "-idx", "10", "-socket-path", str(socket), "-log-file", "/dev/null"])


async def test_it_takes_messages_of_every_size_and_many_at_a_time(tmp_path: Path) -> None:
    async with asyncio.timeout(BOUND), Beside() as beside:
        runtime = FakeNriRuntime(beside)
        async with await runtime.listen(tmp_path / "s"):
            program = started(tmp_path / "s")
            try:
                plugin = await runtime.joined()
                assert (await plugin.configure()).events
                for size in (0, 4000, 4060, 4086, 4096, 8192, 100_000, (4 << 20) - 500):
                    pod = messages.PodSandbox(id="p", annotations={"a": "x" * size})
                    assert await plugin.synchronize([pod], []) == messages.SynchronizeResponse()
                event = messages.StateChangeEvent(event=messages.RUN_POD_SANDBOX, pod=pod)
                event.pod.annotations["a"] = "x" * 6000
                for asked in [
                    beside.start("ask", plugin.ask("StateChange", event, messages.Empty)) for _ in range(200)
                ]:
                    await asked
            finally:
                program.kill()
                await asyncio.to_thread(program.wait)
