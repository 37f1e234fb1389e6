"""A plugin as a program of its own, as an administrator runs it and as a runtime starts it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from crib.stubs.nri.v1alpha1 import api_pb2 as messages
from crib.tasks.groups import Beside
from crib.ttrpc.carriers import SocketCarrier
from tests.fakes.nri_runtime import BOUND, FakeNriRuntime, JoinedPlugin
from tests.unit.nri.lab import EXAMPLES

ROOT = Path(__file__).parents[3]
EXAMPLE = EXAMPLES / "open_files.py"


def started(
    program: Path, *options: str, environment: Mapping[str, str] | None = None, connection: int = -1
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(environment or {})},
        pass_fds=() if connection < 0 else (connection,),
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(program: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, log = program.communicate(timeout=BOUND)
    finally:
        program.kill()
        program.wait()
    return program.returncode, log


async def adjusted(plugin: JoinedPlugin, annotations: Mapping[str, str]) -> messages.ContainerAdjustment:
    request = messages.CreateContainerRequest(
        pod=messages.PodSandbox(name="web", annotations=annotations),
        container=messages.Container(name="main"),
    )
    return (await plugin.ask("CreateContainer", request, messages.CreateContainerResponse)).adjust


async def test_the_example_registers_by_its_arguments_adjusts_and_ends_at_a_signal(tmp_path: Path) -> None:
    async with asyncio.timeout(BOUND), Beside() as beside:
        runtime = FakeNriRuntime(beside)
        async with await runtime.listen(tmp_path / "s"):
            program = started(EXAMPLE, "--idx", "50", "--socket", str(tmp_path / "s"))
            try:
                plugin = await runtime.joined()
                assert (await plugin.configure()).events == 1 << (messages.CREATE_CONTAINER - 1)
                assert plugin.registration is not None
                assert plugin.registration.plugin_name == "open_files.py"
                assert plugin.registration.plugin_idx == "50"
                limited = await adjusted(plugin, {"open-files.example.com/main": "1024"})
                assert limited.rlimits == [messages.POSIXRlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024)]
                assert await adjusted(plugin, {}) == messages.ContainerAdjustment()
                program.send_signal(signal.SIGTERM)
                await plugin.gone()
            finally:
                code, log = await asyncio.to_thread(ended, program)
    assert code == 0, log
    assert "registered as 50-open_files.py" in log


async def test_a_runtime_starts_the_plugin_with_a_connection_of_its_own(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path / "10-limits")
    ours, theirs = socket.socketpair()
    with theirs:
        environment = {
            "NRI_PLUGIN_NAME": "limits",
            "NRI_PLUGIN_IDX": "10",
            "NRI_PLUGIN_SOCKET": str(theirs.fileno()),
        }
        program = started(tmp_path / "10-limits", environment=environment, connection=theirs.fileno())
    try:
        async with asyncio.timeout(BOUND), Beside() as beside:
            ours.setblocking(False)
            _, carrier = await asyncio.get_running_loop().create_connection(SocketCarrier, sock=ours)
            plugin = FakeNriRuntime(beside).take(carrier)
            await plugin.configure()
            assert plugin.registration is not None
            assert (plugin.registration.plugin_name, plugin.registration.plugin_idx) == ("limits", "10")
            await plugin.shut_down()
            await plugin.gone()
    finally:
        code, log = await asyncio.to_thread(ended, program)
    assert code == 0, log


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda program: program.name)
async def test_each_example_says_how_it_is_run(program: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(program), "--help"]
    done = await asyncio.to_thread(
        lambda: subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=BOUND, check=False
        )
    )
    assert done.returncode == 0, done.stderr
    assert "--reconnect" in done.stdout


async def test_a_plugin_that_cannot_run_says_why(tmp_path: Path) -> None:
    for options, reason in (
        ((), "the plugin has no index: give one, or name the executable NN-open_files.py"),
        (("--idx", "10", "--socket", str(tmp_path / "none")), "cannot connect to the runtime"),
    ):
        code, log = await asyncio.to_thread(lambda: ended(started(EXAMPLE, *options)))  # noqa: B023  awaited at once
        assert code == 1
        assert reason in log.splitlines()[-1]
        assert "Traceback" not in log
