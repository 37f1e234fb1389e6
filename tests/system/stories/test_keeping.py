"""Pods that are kept up through the ends of their containers, by the daemon and in the foreground."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import Client, kept, lookup
from crib.client.errors import PodFailure
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import COMMAND_SECONDS, Cri, Cribd, crib, running_cribd, until
from tests.system.labs.keeping import (
    SLEEPS,
    KeepingCribd,
    keeping_story,
    manifest,
    run,
    running,
    supervisor_of,
    the_pod,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

NOTHING = {"exec": {"command": ["true"]}}


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(kind=KeepingCribd) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with keeping_story(cribd) as connection:
        yield connection


async def test_a_container_that_ends_is_started_again_until_the_pod_is_taken_down(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = manifest(tmp_path, "echo hello; sleep 0.2; exit 3")
    said = run(cribd, tmp_path, "run", "--restart", path)
    assert "pod default/web is kept up (" in said

    async def crashed_often() -> bool:
        return (await the_pod(cri)).containers[0].restarts >= 3

    await until(crashed_often)
    boxes = await lookup.containers(cri.connection)
    assert len(boxes) <= 3
    assert len({box.pod_sandbox_id for box in boxes}) == 1
    events = [json.loads(line) for line in run(cribd, tmp_path, "events", "--json").splitlines()]
    again = [event for event in events if event["action"] == "restarted"]
    assert {(event["pod"], event["name"]) for event in again} == {("default/web", "app")}
    assert again[0]["message"] == "exit code 3; restart 1, by crib's supervisor"
    assert any("s (restart" in event["message"] for event in events if event["action"] == "backing off")
    table = run(cribd, tmp_path, "kept")
    assert "default/web" in table
    unit = cribd.data / "kept/default_web.json"
    assert unit.stat().st_mode & 0o777 == 0o600
    assert run(cribd, tmp_path, "down", path) == "removed default/web\n"
    assert not unit.exists()
    assert not await lookup.pods(cri.connection)
    assert not any((tmp_path / "pods").iterdir())


async def test_a_program_has_the_daemon_keep_pods_up_until_it_stops_or_removes_them(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = manifest(tmp_path, f"[ -e /been ] || {{ touch /been; exit 3; }}; {SLEEPS}", livenessProbe=NOTHING)
    notes: list[str] = []
    async with Client(str(cribd.socket), pods_dir=str(tmp_path / "pods")) as client:
        (pod,) = await client.run_manifest(path, restart=True, note=notes.append)
        assert notes == [], "nothing is without effect"
        await running(cri, restarts=1)
        with pytest.raises(PodFailure, match="is kept up"):
            await client.run_manifest(path, restart=True)
        await client.stop_pod(pod, grace=0)
        kept_pod = await the_pod(cri)
        assert (kept_pod.wanted, kept_pod.phase) == (False, "Stopped")
        await client.remove_pod(pod)
        assert not (await kept.everything(client.connection)).pods
        broken = manifest(tmp_path, "exit 4", policy="Never")
        with pytest.raises(PodFailure, match=r"pod default/web has failed: .*\(crib kept shows how it is"):
            await client.run_manifest(broken, restart=True)
        await client.remove_pod("web")


async def test_a_pod_that_is_not_live_is_restarted_with_its_hooks(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    path = manifest(
        tmp_path,
        lifecycle={
            "postStart": {"exec": {"command": ["touch", "/live"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "echo bye > /proc/1/fd/1"]}},
        },
        livenessProbe={
            "exec": {"command": ["test", "-e", "/live"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
    )
    run(cribd, tmp_path, "run", "--restart", path)
    box = await running(cri)
    await cri.execute(box, "rm", "/live")
    second = await running(cri, 1)
    assert "bye" in (tmp_path / "pods" / (await the_pod(cri)).uid / "logs/app/0.log").read_text()
    assert await cri.sh(second, "ls /live") == "/live"
    run(cribd, tmp_path, "down", "web")


async def test_what_probes_find_is_an_event_with_its_cause_and_so_is_the_restart(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    probe = {"periodSeconds": 1, "failureThreshold": 1}
    path = manifest(
        tmp_path,
        readinessProbe={
            "exec": {"command": ["sh", "-c", "test -e /ready || { echo too soon; exit 1; }"]},
            **probe,
        },
        livenessProbe={"exec": {"command": ["sh", "-c", "! test -e /ill"]}, **probe},
    )
    run(cribd, tmp_path, "run", "--restart", path)

    box = await running(cri)
    sandbox = (await the_pod(cri)).pod_sandbox_id  # the daemon remembers those of other tests, too

    async def told(action: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []

        async def there() -> bool:
            text = run(cribd, tmp_path, "events", "--pod", "web", "--since", "10m", "-o", "json")
            every = [json.loads(line) for line in text.splitlines()]
            found[:] = [one for one in every if (one["action"], one["podSandboxId"]) == (action, sandbox)]
            return bool(found)

        await until(there)
        return found

    (late,) = await told("unhealthy")
    assert late["message"] == "readiness probe failed: too soon"
    assert (late["pod"], late["name"]) == ("default/web", "app")
    assert "readiness probe failed: too soon" in run(cribd, tmp_path, "kept")
    await cri.execute(box, "touch", "/ready")
    assert [one["message"] for one in await told("healthy")] == ["its readiness probe succeeds again"]
    await cri.execute(box, "touch", "/ill")
    (again,) = await told("restarted")
    assert again["message"] == "liveness probe failed: exit code 1; restart 1, by crib's supervisor"
    assert (await told("unhealthy"))[1]["message"] == "liveness probe failed: exit code 1"
    run(cribd, tmp_path, "down", "web")


async def test_pods_of_a_kubelet_are_never_touched_and_need_no_keeper(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    labels = {"io.kubernetes.pod.name": "theirs", "io.kubernetes.pod.uid": "u-theirs"}
    theirs = await cri.run_pod("theirs", labels=labels)
    ended = await cri.run_container(theirs, "false", labels=labels)
    await cri.exited(ended)
    assert supervisor_of(cribd) is None
    run(cribd, tmp_path, "run", "--restart", manifest(tmp_path))
    box = await running(cri)
    await cri.stop_container(box)
    await running(cri, 1)
    assert [one.id for one in await lookup.containers(cri.connection, theirs.id)] == [ended]
    assert (await cri.pod_status(theirs)).state == pb.SANDBOX_READY
    run(cribd, tmp_path, "down", "web")
    assert (await cri.pod_status(theirs)).state == pb.SANDBOX_READY


def test_in_the_foreground_logs_are_shown_and_ctrl_c_stops_the_pod(cribd: Cribd, tmp_path: Path) -> None:
    script = "echo up; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"
    path = manifest(tmp_path, script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    program = [sys.executable, "-c", "from crib.cli.app import main; main()", "-e", str(cribd.socket)]
    with subprocess.Popen(
        [*program, "--pods-dir", str(tmp_path / "pods"), "run", "--foreground", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as shown:
        assert shown.stdout is not None
        assert shown.stdout.readline() == "app | up\n"
        shown.send_signal(signal.SIGINT)
        out, err = shown.communicate(timeout=COMMAND_SECONDS)
    assert shown.returncode == 130
    assert out == "app | bye\n"
    assert "stopping; once more kills" in err
    assert supervisor_of(cribd) is None
    assert run(cribd, tmp_path, "down", path) == "removed default/web\n"


def test_work_in_the_foreground_gives_its_exit_code(cribd: Cribd, tmp_path: Path) -> None:
    path = manifest(tmp_path, "echo done; exit 3", "Never")
    done = crib(cribd, tmp_path / "pods", "run", "--foreground", path)
    assert done.returncode == 3
    assert done.stdout == "app | done\n"
    assert "pod default/web has failed: container app exited with 3" in done.stderr
    run(cribd, tmp_path, "down", "web")
