"""What shells offer next: from the commands themselves, and from a runtime that answers."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from crib.cli import app, completion
from crib.cli.completion_commands import SCRIPTS, Shell
from crib.cli.session import CliSession
from crib.stubs.node.v1.node_pb2 import VolumeSnapshot
from tests.unit.cli.command_world import IMAGE, add_container, add_pod, served
from tests.unit.client.fake_runtime import World
from tests.unit.client.fake_volumes import VolumeWorld, serve_volumes

ROOT: Any = get_command(app.app)
BOUND = 120.0
"""Seconds; a busy machine is slow. Also what the runtime gets here to answer."""
PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(Path(__file__).parents[3] / "src")!r})
import crib.cli.completion
crib.cli.completion.LIMIT = crib.cli.completion.LAST_RESORT = {BOUND}
from crib.cli.entry import main
main()
"""


@pytest.fixture
async def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CliSession]:
    monkeypatch.setattr(completion, "LIMIT", BOUND)
    world = World()
    world.add_image(IMAGE)
    for name, namespace in (("web", "default"), ("db", "default"), ("db", "test")):
        pod = add_pod(world, name, namespace)
        add_container(world, pod, f"{name}-main")
    add_container(world, pod, "other")
    async with served(world, tmp_path) as made:
        monkeypatch.setenv("CRIB_ENDPOINT", made.endpoint)
        yield made


async def offered(*words: str) -> list[str]:
    line = completion.read(ROOT, words)
    found = await asyncio.to_thread(lambda: list(completion.candidates(line)))
    return [value for value, _ in found]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (["pod"], ["pods"]),
        (["image", "p"], ["prune"]),
        (["help", "tim"], ["timeline"]),
        (["pods", "--names"], ["--namespace"]),
        (["top", "--sort", "c"], ["cpu"]),
        (["top", "-l", ""], ["tree", "pods", "containers"]),
        (["top", "--sort=mem"], ["--sort=memory"]),
        (["pods", "-o", "j"], ["json", "jsonpath="]),
        (["inspect", "x", "-o", ""], ["yaml", "json", "jsonpath=", "go-template="]),
        (["run", ""], [":files"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["pods", ""], []),
        (["nonsense", "x"], []),
        (["exec", "x", "--", "--he"], []),
    ],
)
async def test_the_commands_say_what_may_come_next(words: list[str], some: list[str]) -> None:
    assert await offered(*words) == some


async def test_pods_are_named_as_briefly_as_they_can_be(session: CliSession) -> None:
    assert sorted(await offered("logs", "")) == ["default/db", "test/db", "web"]
    assert sorted(await offered("logs", "default/")) == ["default/db", "default/web"]
    assert await offered("logs", "we") == ["web"]


async def test_containers_images_namespaces_and_handlers_come_from_the_runtime(session: CliSession) -> None:
    assert sorted(await offered("logs", "test/db", "-c", "")) == ["db-main", "other"]
    assert await offered("exec", "--container", "") == []
    assert await offered("rmi", "local") == [IMAGE]
    assert await offered("pods", "-n", "t") == ["test"]
    assert await offered("-e", session.endpoint, "pods", "--namespace=d") == ["--namespace=default"]


async def test_a_runtime_that_is_away_adds_nothing_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRIB_ENDPOINT", f"{tmp_path}/none")
    assert await offered("logs", "") == []
    assert await offered("inspect", "a") == []
    monkeypatch.setenv("CRIB_ENDPOINT", "nonsense")
    assert await offered("logs", "") == []
    assert capfd.readouterr() == ("", "")


async def test_a_runtime_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/s")
        silent.listen()
        monkeypatch.setenv("CRIB_ENDPOINT", f"{tmp_path}/s")
        monkeypatch.setattr(completion, "LIMIT", 0.05)
        assert await offered("logs", "") == []


def completed_by_bash(directory: Path, line: str, *words: str) -> list[str]:
    """What bash offers for the line, whose words are as bash takes it apart."""
    (directory / "crib").write_text(PROGRAM)
    (directory / "crib").chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"{SCRIPTS[Shell.BASH]}\ncompopt() {{ :; }}\nCOMP_LINE='{line}' COMP_POINT={len(line)}\n"
        f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}\n_crib\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


async def test_bash_completes_commands_pods_and_files(session: CliSession, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").touch()
    for line, words, found in (
        ("crib timel", ["crib", "timel"], ["timeline"]),
        ("crib logs we", ["crib", "logs", "we"], ["web"]),
        ("crib logs ", ["crib", "logs", ""], ["test/db", "default/db", "web"]),
        ("crib run po", ["crib", "run", "po"], ["pod.yaml"]),
        ("crib pods --output=js", ["crib", "pods", "--output", "=", "js"], ["json", "jsonpath="]),
        ("crib rmi localhost/demo:", ["crib", "rmi", "localhost/demo", ":"], ["1"]),
    ):
        assert await asyncio.to_thread(completed_by_bash, tmp_path, line, *words) == found, line


async def test_fish_completes_pods(session: CliSession, tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish here")
    (tmp_path / "crib").write_text(PROGRAM)
    (tmp_path / "crib").chmod(0o755)
    (tmp_path / "script.fish").write_text(SCRIPTS[Shell.FISH])
    done = await asyncio.to_thread(
        subprocess.run,
        ["fish", "--no-config", "-c", f"source {tmp_path}/script.fish; complete -C 'crib logs w'"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    )
    assert done.stdout == "web\tpod in default, Ready\n"


@pytest.mark.parametrize("shell", list(Shell))
def test_the_script_is_one_of_its_shell(
    shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app._ending(["completion", shell.value]) == 0
    script = capsys.readouterr().out
    assert script == SCRIPTS[shell]
    if shutil.which(shell.value) is None:
        pytest.skip(f"no {shell.value} here")
    (tmp_path / "script").write_text(script)
    done = subprocess.run(
        [shell.value, "-n", tmp_path / "script"], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
async def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VolumeWorld]:
    monkeypatch.setattr(completion, "LIMIT", BOUND)
    monkeypatch.setenv("CRIB_ENDPOINT", f"unix://{tmp_path}/s")
    world = VolumeWorld(directory=f"{tmp_path}/volumes")
    server = await serve_volumes(f"{tmp_path}/s", world)
    yield world
    await server.stop(None)


async def test_volumes_and_snapshots_are_offered_by_name(volumes: VolumeWorld) -> None:
    volumes.add_volume("default/data")
    volumes.add_volume("shop/data")
    monday = VolumeSnapshot(namespace="default", name="monday", volume_name="data")
    volumes.snapshots["default/monday"] = monday
    assert await offered("volume", "rm", "") == ["data", "shop/data"]
    assert await offered("volume", "rm", "default/") == ["default/data"]
    assert await offered("volume", "snapshot", "rm", "m") == ["monday"]
    assert await offered("volume", "create", "x", "--snapshot", "") == ["monday"]
    assert await offered("volume", "create", "x", "--kind", "t") == ["tmpfs"]
