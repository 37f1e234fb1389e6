"""A program that never answers costs its own pod, and nobody else; what became of it is told and mended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import pytest

from crib.client import node
from crib.client.errors import ClientError
from crib.stubs.node.v1.node_pb2 import Work
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.hung_mount import mount_that_hangs_later
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.hanging_programs import HangingPrograms
from tests.system.labs.stream_lab import CRIB

pytestmark = [pytest.mark.root, pytest.mark.system]

SHORT = 1.0
"""Seconds: the `verb_timeout` of stories that wait until it has passed."""

BOUND = 100.0
"""Seconds: what must not take the whole of the usual `verb_timeout` may take so long on a busy machine."""


@pytest.fixture
def programs(tmp_path: Path, request: pytest.FixtureRequest) -> HangingPrograms:
    return HangingPrograms(tmp_path, kind=getattr(request, "param", "crun"))


@pytest.fixture
def timeout(request: pytest.FixtureRequest) -> float:
    """`verb_timeout`, in seconds."""
    return getattr(request, "param", 240.0)


@pytest.fixture
def cribd(programs: HangingPrograms, timeout: float) -> Iterator[Cribd]:
    with running_cribd(extra=programs.settings(timeout)) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd, programs: HangingPrograms) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        try:
            yield connection
        finally:
            programs.release_all()


async def test_a_restart_asks_no_runtime_how_its_containers_are(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    pod = await cri.run_pod("pod")
    runs, created = (
        await cri.run_container(pod, "sleep", "100", name="runs"),
        await cri.create(pod, "sleep", "9"),
    )
    cribd.kill()
    cribd.start()
    states = {box: item.state for box, item in (await cri.containers()).items()}
    assert states == {runs: pb.CONTAINER_RUNNING, created: pb.CONTAINER_CREATED}
    assert programs.calls("state") == []
    await cri.start(created)


@pytest.mark.parametrize("programs", ["another"], indirect=True)
async def test_a_runtime_that_never_says_how_its_containers_are_does_not_hold_up_a_restart(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    """One of another kind: how crun and runc keep their states is known."""
    stuck = await cri.run_container(await cri.run_pod("stuck"), "sleep", "100")
    fine = await cri.run_container(await cri.run_pod("fine"), "sleep", "100")
    cribd.kill()
    programs.hang("state", stuck)
    cribd.start()
    assert f"without container {stuck}: that work continues" in cribd.log()
    assert await cri.sh(fine, "echo well") == "well"
    assert (await cri.status(stuck)).state in (pb.CONTAINER_RUNNING, pb.CONTAINER_UNKNOWN)


def is_there(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def failure(call: Awaitable[object]) -> ClientError:
    with pytest.raises(ClientError) as told:
        await call
    return told.value


async def test_a_start_whose_first_process_dies_before_the_runtime_has_told_it_does_not_wait_for_ever(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    """Crun waits then for somebody to read from the pipe of a process that is no more."""
    box = await cri.create(await cri.run_pod("pod"), "sleep", "100")
    programs.hang("start", box)
    starting = asyncio.ensure_future(failure(cri.start(box)))
    (runtime,) = await until(lambda: programs.calls("start", box))
    os.kill(int((cribd.state / "containers" / box / "pidfile").read_text()), signal.SIGKILL)
    async with asyncio.timeout(BOUND):
        error = await starting
    assert "its first process has ended" in error.message
    await until(lambda: not is_there(runtime))
    assert (await cri.exited(box)).state == pb.CONTAINER_EXITED


@pytest.mark.parametrize("timeout", [SHORT], indirect=True)
@pytest.mark.parametrize("verb", ["create", "monitor"])
async def test_a_create_that_hangs_ends_by_its_bound_and_leaves_no_process_however_often_it_is_tried(
    cri: Cri, programs: HangingPrograms, verb: str
) -> None:
    pod, other = await cri.run_pod("pod"), await cri.run_pod("other")
    fine = await cri.run_container(other, "sleep", "100")
    programs.hang(verb)
    for _ in range(3):
        creating = asyncio.ensure_future(failure(cri.create(pod, "sleep", "100")))
        assert await cri.sh(fine, "echo well") == "well"
        error = await creating
        assert error.code == "INTERNAL"
        assert "conmon and the runtime did not answer within 1 s" in error.message
        await until(lambda: not any(map(is_there, programs.calls(verb))))
    programs.release(verb)
    box = await cri.run_container(pod, "sleep", "100")
    assert await cri.sh(box, "echo well") == "well"


@pytest.mark.parametrize("timeout", [SHORT], indirect=True)
async def test_a_start_that_hangs_ends_by_its_bound_and_the_container_can_be_removed(
    cri: Cri, programs: HangingPrograms
) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.create(pod, "sleep", "100")
    programs.hang("start", box)
    error = await failure(cri.start(box))
    assert f"start of container {box}" in error.message
    assert "did not answer within 1 s" in error.message
    status = await cri.status(box)
    assert (status.state, status.reason) == (pb.CONTAINER_EXITED, "StartError")
    assert not any(map(is_there, programs.calls("start", box)))
    await cri.remove_container(box)
    assert await cri.containers() == {}


@pytest.mark.parametrize("timeout", [SHORT], indirect=True)
@pytest.mark.parametrize("programs", ["another"], indirect=True)
async def test_a_delete_that_hangs_does_not_keep_a_pod(cri: Cri, programs: HangingPrograms) -> None:
    """What it would have removed is found without it, and its processes are ended by their cgroup."""
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sleep", "100")
    programs.hang("delete")
    await cri.remove_pod(pod)
    assert (await cri.sandboxes(), await cri.containers()) == ({}, {})
    assert programs.calls("delete", box)
    await until(lambda: not any(map(is_there, programs.calls("delete"))))


async def test_a_runtime_that_hangs_in_kill_and_update_is_not_asked_for_either(
    cri: Cri, programs: HangingPrograms
) -> None:
    """Signals go to the cgroup's processes, limits into its files: nothing of the runtime is waited for."""
    pod = await cri.run_pod("pod")
    box = await cri.run_container(pod, "sleep", "100")
    for verb in ("kill", "update"):
        programs.hang(verb)
    async with asyncio.timeout(BOUND):
        limits = pb.LinuxContainerResources(cpu_shares=512)
        request = pb.UpdateContainerResourcesRequest(container_id=box, linux=limits)
        await cri.call(cri.runtime.UpdateContainerResources, request)
        assert (await cri.status(box)).resources.linux.cpu_shares == 512
        await cri.stop_container(box)
        assert (await cri.status(box)).state == pb.CONTAINER_EXITED
        await cri.remove_pod(pod)
    assert programs.calls("kill") == programs.calls("update") == []


async def test_a_command_whose_runtime_hangs_ends_with_its_own_time_out_and_leaves_nothing(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    """As a probe that is asked again and again."""
    box = await cri.run_container(await cri.run_pod("pod"), "sleep", "100")
    programs.hang("exec", box)
    for _ in range(2):
        async with asyncio.timeout(BOUND):
            error = await failure(cri.execute(box, "true", timeout=1))
        assert (error.code, "took longer than 1 s" in error.message) == ("DEADLINE_EXCEEDED", True)
    await until(lambda: not any(map(is_there, programs.calls("exec", box))))
    assert await verbs_of(cri, box) == []
    bundle = cribd.state / "containers" / box
    assert [path.name for path in bundle.iterdir() if path.name.startswith("exec")] == []
    programs.release("exec", box)
    assert await cri.sh(box, "echo well") == "well"


async def test_a_hung_start_is_seen_with_its_stage_and_can_be_abandoned(
    cri: Cri, cribd: Cribd, programs: HangingPrograms
) -> None:
    pod = await cri.run_pod("pod")
    box = await cri.create(pod, "sleep", "100")
    programs.hang("start", box)
    starting = asyncio.ensure_future(failure(cri.start(box)))
    await until(lambda: programs.calls("start", box))
    (verb,) = await verbs_of(cri, box)
    assert (verb.name, verb.id, verb.title) == ("start container", box, "stories/pod/box")
    assert (verb.stage, verb.callers) == ("StartContainer box", 1)
    shown = await asyncio.to_thread(crib_command, cribd, "work", "--output", "json")
    assert box in [one["id"] for one in json.loads(shown)]
    assert "start container" in await asyncio.to_thread(crib_command, cribd, "work")
    assert "abandoned start container" in await asyncio.to_thread(
        crib_command, cribd, "abandon", box[:12], "--reason", "it hangs"
    )
    error = await starting
    assert (error.code, error.message) == ("ABORTED", "start container: Abandoned: it hangs")
    again = await cri.run_container(pod, "sleep", "100")  # under the same name
    await until(lambda: _only(cri, again))
    assert not any(map(is_there, programs.calls("start", box)))


async def _only(cri: Cri, container: str) -> bool:
    return set(await cri.containers()) == {container}


def crib_command(cribd: Cribd, *arguments: str) -> str:
    """What the command line prints."""
    done = subprocess.run(
        [*CRIB, "--endpoint", f"unix://{cribd.socket}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nightly  # a minute: so long may a killed process take to be gone
async def test_a_process_that_cannot_be_killed_costs_its_own_pod_and_the_stop_is_finished_by_itself(
    cri: Cri, cribd: Cribd, tmp_path: Path
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    other = await cri.run_pod("other")
    fine = await cri.run_container(other, "sleep", "1000")
    with mount_that_hangs_later(place) as hangs:
        pod = await cri.run_pod("pod")
        mounts = [pb.Mount(container_path="/disk", host_path=str(place))]
        box = await cri.run_container(
            pod,
            "sh",
            "-c",
            "until [ -e /go ]; do sleep 0.05; done; echo >/went; exec ls /disk",
            mounts=mounts,
        )
        hangs.set()
        await cri.sh(box, "touch /go; until [ -e /went ]; do sleep 0.05; done")
        first = int((cribd.state / "containers" / box / "pidfile").read_text())
        await until(lambda: "fuse" in Path(f"/proc/{first}/stack").read_text())
        stopping = asyncio.ensure_future(failure(cri.stop_pod(pod)))
        assert await cri.sh(fine, "echo well") == "well"
        assert "SIGKILL" in (await stopping).message
        assert set(await cri.sandboxes()) == {pod.id, other.id}
        assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
        assert [retry.name for retry in await verbs_of(cri, pod.id)] == ["stop sandbox"]
    await until(lambda: _has_exited(cri, box))
    await until(lambda: _is_left_alone(cri, pod.id))
    await cri.remove_pod(pod)
    assert set(await cri.sandboxes()) == {other.id}


async def _has_exited(cri: Cri, container: str) -> bool:
    return (await cri.status(container)).state == pb.CONTAINER_EXITED


async def _is_left_alone(cri: Cri, identifier: str) -> bool:
    return await verbs_of(cri, identifier) == []


async def verbs_of(cri: Cri, identifier: str) -> list[Work]:
    """What is under way for one pod or container, without what threads are at."""
    found = await node.under_way(cri.connection)
    return [one for one in found if one.id == identifier and not one.name.startswith("thread")]
