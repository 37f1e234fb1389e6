"""What a person sees at 60, 80 and 200 columns, in tmux: no line is longer than the screen is wide."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.cli.session import CliSession
from crib.stubs.node.v1 import node_pb2
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.system.labs.tmux_lab import HERE, TmuxTerminal
from tests.unit.cli.command_world import add_container, add_pod, served
from tests.unit.client.fake_runtime import World

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
WIDTHS = (60, 80, 200)
IMAGE = "registry.example.com:5000/team/project/backend/server:2024.11.3"
LONG = "payments-backend-7d9c5b6f4-x2x4z"
ROWS = 60


@pytest.fixture
def world() -> World:
    """Names as clusters have them."""
    made = World()
    made.add_image(IMAGE)
    made.add_image("docker.io/library/postgres:16.4-bookworm")
    for name, namespace in (
        (LONG, "production"),
        ("web", "default"),
        ("coredns-5d78c9869d-2xkfz", "kube-system"),
    ):
        pod = add_pod(made, name, namespace)
        add_container(made, pod, "server", image=IMAGE)
        add_container(
            made, pod, "log-shipper", cri.CONTAINER_EXITED, image=IMAGE, exit_code=137, reason="OOMKilled"
        )
    stage = node_pb2.Stage(
        name="making network", subject=LONG, started_at=10**18, duration_ns=3 * 10**9, outcome="ok"
    )
    made.timeline = node_pb2.TimelineResponse(pod=f"production/{LONG}", pod_sandbox_id=pod, stages=[stage])
    return made


@pytest.fixture
async def session(world: World, tmp_path: Path) -> AsyncIterator[CliSession]:
    async with served(world, tmp_path) as made:
        yield made


@pytest.fixture
def terminals(session: CliSession, tmp_path: Path) -> Iterator[list[TmuxTerminal]]:
    made: list[TmuxTerminal] = []
    yield made
    for one in made:
        one.close()


@pytest.mark.parametrize("width", WIDTHS)
async def test_nothing_wraps(
    width: int, session: CliSession, terminals: list[TmuxTerminal], tmp_path: Path
) -> None:
    (tmp_path / "web.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: new}\n"
        f"spec: {{containers: [{{name: main, image: '{IMAGE}', imagePullPolicy: Always}}]}}\n"
    )
    terminal = TmuxTerminal(tmp_path, session.endpoint, width, ROWS)
    terminals.append(terminal)
    await terminal.open()
    commands = {
        "pods": LONG[:8],
        "ps -a": "Exited",
        "images": "…/server" if width < 80 else "server:2024.11.3",
        f"timeline {LONG}": "in all",
        f"pull {IMAGE}": "pulled",
        "info": "runtime",
    }
    for command, shown in commands.items():
        terminal.enter(f"clear; crib {command}")
        await terminal.shows(shown)
        await terminal.prompts(HERE)
        lines = terminal.lines()
        whole_ids = [line for line in lines if line.startswith("sha256:") and " " not in line]
        assert [line for line in lines if len(line) > width and line not in whole_ids] == [], command
        assert any(shown in line for line in lines), command
    terminal.enter("clear; crib top")
    await terminal.shows("q quit")
    assert [line for line in terminal.lines() if len(line) > width] == []
    terminal.press("q")
    await terminal.prompts(HERE)
    terminal.enter(f"clear; crib --pods-dir {tmp_path}/pods run {tmp_path}/web.yaml")
    await terminal.shows("is running")
    assert [line for line in terminal.lines() if len(line) > max(width, 80)] == []  # ids are whole


async def test_ids_are_whole_on_the_narrowest_screen(
    session: CliSession, world: World, terminals: list[TmuxTerminal], tmp_path: Path
) -> None:
    terminal = TmuxTerminal(tmp_path, session.endpoint, WIDTHS[0], ROWS)
    terminals.append(terminal)
    await terminal.open()
    terminal.enter("clear; crib pods; crib ps -a; crib images")
    await terminal.shows("server:2024.11.3")
    await terminal.prompts(HERE)
    screen = terminal.screen()
    for identifier in (
        *world.pods,
        *world.containers,
        *(one.removeprefix("sha256:") for one in world.images),
    ):
        assert identifier[:12] in screen
