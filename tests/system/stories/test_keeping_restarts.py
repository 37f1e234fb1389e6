"""Pods that are kept up through the ends of their keeper and of cribd."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crib.client import kept, lookup
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.keeping import (
    KeepingCribd,
    keeping_story,
    manifest,
    run,
    running,
    supervisor_of,
    the_pod,
)
from tests.system.labs.power_cuts import power_cut

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture
def cribd() -> Iterator[Cribd]:
    """Each story has its own: what is started anew is a new process, and it would count as left behind."""
    with running_cribd(kind=KeepingCribd) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with keeping_story(cribd) as connection:
        yield connection


async def test_the_pod_outlives_its_keeper_and_cribd(cribd: Cribd, cri: Cri, tmp_path: Path) -> None:
    run(cribd, tmp_path, "run", "--restart", manifest(tmp_path))
    box = await running(cri)
    first = supervisor_of(cribd)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await cri.stop_container(box)
    second = await running(cri, 1)
    assert second != box
    assert supervisor_of(cribd) not in (None, first)
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        assert await running(again, 1) == second
        await again.stop_container(second)
        third = await running(again, 2)
        cribd.stop()
        cribd.start()
    async with cribd.connect() as last:
        assert await running(last, 2) == third
        run(cribd, tmp_path, "down", "web")


async def test_what_is_stopped_stays_stopped_across_a_restart_until_it_is_started(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    run(cribd, tmp_path, "run", "--restart", manifest(tmp_path))
    box = await running(cri)
    assert run(cribd, tmp_path, "stop", "web").startswith("stopped")
    assert (await cri.status(box)).state == pb.CONTAINER_EXITED
    cribd.stop()
    cribd.start()
    async with cribd.connect() as again:

        async def is_stopped() -> bool:
            return (await the_pod(again)).phase == "Stopped"

        await until(is_stopped)
        assert [pod.state for pod in await lookup.pods(again.connection)] == [pb.SANDBOX_NOTREADY]
        assert run(cribd, tmp_path, "start", "web").startswith("started")
        assert await running(again) != box
        assert run(cribd, tmp_path, "rm", "--force", "web").startswith("removed")
        assert not (await kept.everything(again.connection)).pods


async def test_after_a_reboot_the_pod_is_run_anew(cribd: Cribd, tmp_path: Path) -> None:
    run(cribd, tmp_path, "run", "--restart", manifest(tmp_path))
    async with cribd.connect() as cri:
        before, box = await the_pod(cri), await running(cri)
    power_cut(cribd)
    cribd.start()
    async with cribd.connect() as cri:
        assert await running(cri, 1) != box
        assert (await the_pod(cri)).uid == before.uid

        async def only_the_next_attempt() -> bool:
            return [pod.metadata.attempt for pod in await lookup.pods(cri.connection)] == [1]

        await until(only_the_next_attempt)
        run(cribd, tmp_path, "down", "web")
        assert not await lookup.pods(cri.connection)


async def test_a_restart_that_a_kill_kept_from_being_told_is_told_by_the_next_daemon_and_once(
    cribd: Cribd, cri: Cri, tmp_path: Path
) -> None:
    hook = {"exec": {"command": ["sh", "-c", "mkdir /data/first || sleep 600"]}}
    mounts = [{"name": "data", "mountPath": "/data"}]
    path = Path(manifest(tmp_path, lifecycle={"postStart": hook}, volumeMounts=mounts))
    pod = json.loads(path.read_text())
    pod["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    path.write_text(json.dumps(pod))
    run(cribd, tmp_path, "run", "--restart", str(path))
    await cri.stop_container(await running(cri))

    async def is_in_the_hook() -> bool:
        boxes = await lookup.containers(cri.connection)
        return any(box.metadata.attempt == 1 and box.state == pb.CONTAINER_RUNNING for box in boxes)

    await until(is_in_the_hook)
    assert restarts(cribd, tmp_path) == []
    cribd.kill()
    cribd.start()
    async with cribd.connect() as again:
        box = await running(again, 1)
        assert restarts(cribd, tmp_path) == [(box, "it ended; restart 1, by crib's supervisor")]
        cribd.kill()
        cribd.start()
    async with cribd.connect() as last:
        await running(last, 1)
        assert restarts(cribd, tmp_path) == [(box, "it ended; restart 1, by crib's supervisor")]
        run(cribd, tmp_path, "down", "web")


def restarts(cribd: Cribd, directory: Path) -> list[tuple[str, str]]:
    """The restarts that events tell of: container and message."""
    events = [json.loads(line) for line in run(cribd, directory, "events", "--json").splitlines()]
    return [(event["id"], event["message"]) for event in events if event["action"] == "restarted"]
