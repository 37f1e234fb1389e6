"""A caller's deadline ends its waiting, never the verb; who asks again joins the work or gets its result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest

from crib.client import pods
from crib.client.errors import TimedOut
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, default_handler, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

TOO_SHORT = 0.001
"""Seconds: less than any verb takes, and enough for the request to get there, most of the time."""
ATTEMPTS = 50
"""Calls that are cut off, each a little later, until one is cut off in the daemon, not on its way there."""


@pytest.fixture(scope="module", params=["crun", "runc"])
def cribd(request: pytest.FixtureRequest) -> Iterator[Cribd]:
    with running_cribd(extra=default_handler(request.param)) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        await connection.call(connection.runtime.Version, pb.VersionRequest())  # connected now
        yield connection


async def given_up(call: object) -> bool:
    """Whether the caller's deadline passed before the answer came."""
    try:
        await call  # type: ignore[misc]
    except TimedOut:
        return True
    return False


async def test_a_sandbox_whose_caller_gave_up_is_made_all_the_same_and_found_by_the_retry(cri: Cri) -> None:
    config = cri.pod_config("patient")
    request = pb.RunPodSandboxRequest(config=config)
    for seconds in (TOO_SHORT, 2 * TOO_SHORT, 4 * TOO_SHORT):
        await given_up(cri.call(cri.runtime.RunPodSandbox, request, seconds))
    again = await pods.run_sandbox(cri.connection, config)
    assert set(await cri.sandboxes()) == {again.id}
    assert (await pods.run_sandbox(cri.connection, config)).id == again.id


async def test_a_verb_goes_on_when_nobody_waits_for_it_any_more(cri: Cri) -> None:
    for attempt in range(ATTEMPTS):
        config = cri.pod_config(f"alone-{attempt}")
        call = cri.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
        await asyncio.sleep(attempt * TOO_SHORT)  # later each time, until it is cut off in the daemon
        name = config.metadata.name
        if call.cancel() and await soon(partial(is_made, cri, name)):
            return
    raise AssertionError(f"none of {ATTEMPTS} sandboxes was made after its caller had gone")


async def soon(question: Callable[[], object]) -> bool:
    """Whether it comes true: a call may die before the daemon has seen it."""
    try:
        await until(question, 1)
    except AssertionError:
        return False
    return True


async def is_made(cri: Cri, name: str) -> bool:
    found = [pod for pod in (await cri.sandboxes()).values() if pod.metadata.name == name]
    return bool(found) and found[0].state == pb.SANDBOX_READY


async def test_a_container_whose_caller_gave_up_is_made_once(cri: Cri) -> None:
    pod = await cri.run_pod("once")
    config = cri.container_config("sleep", "1000")
    request = pb.CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
    for seconds in (TOO_SHORT, 5 * TOO_SHORT, 10 * TOO_SHORT):
        await given_up(cri.call(cri.runtime.CreateContainer, request, seconds))
    box = await pods.create_container(cri.connection, pod, config)
    assert set(await cri.containers()) == {box}
    start = pb.StartContainerRequest(container_id=box)
    await given_up(cri.call(cri.runtime.StartContainer, start, TOO_SHORT))
    await cri.start(box)
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING


async def test_equal_calls_at_once_make_one_sandbox_and_one_container(cri: Cri) -> None:
    config = cri.pod_config("joined")
    made = await asyncio.gather(*(pods.run_sandbox(cri.connection, config) for _ in range(10)))
    assert len({pod.id for pod in made}) == 1
    wanted = cri.container_config("sleep", "1000")
    boxes = await asyncio.gather(*(pods.create_container(cri.connection, made[0], wanted) for _ in range(10)))
    assert len(set(boxes)) == 1
    await cri.start(boxes[0])
    assert set(await cri.sandboxes()) == {made[0].id}
    stops = [cri.stop_container(boxes[0]) for _ in range(5)]
    await asyncio.gather(*stops, *(cri.remove_pod(made[0]) for _ in range(5)))
    assert await cri.sandboxes() == {}


async def test_a_stop_and_a_removal_are_not_cancelled_by_their_callers_deadline(cri: Cri) -> None:
    pod = await cri.run_pod("going")
    script = "trap 'touch /told' TERM; touch /ready; while :; do sleep 0.02; done"
    box = await cri.run_container(pod, "sh", "-c", script)
    await cri.sh(box, "until [ -e /ready ]; do sleep 0.01; done", timeout=20)
    stop = pb.StopContainerRequest(container_id=box, timeout=3)
    stopping = asyncio.ensure_future(given_up(cri.call(cri.runtime.StopContainer, stop, 2)))
    await until((cri.cribd.data / "containers" / box / "upper" / "told").exists)  # under way
    assert await stopping
    status = await cri.exited(box, 30)
    assert status.exit_code == 128 + signal.SIGKILL

    async def is_stopped() -> bool:
        return (await cri.pod_status(pod)).state == pb.SANDBOX_NOTREADY

    async def is_gone() -> bool:
        return not await cri.sandboxes()

    for verb, request, is_done in (
        (cri.runtime.StopPodSandbox, pb.StopPodSandboxRequest(pod_sandbox_id=pod.id), is_stopped),
        (cri.runtime.RemovePodSandbox, pb.RemovePodSandboxRequest(pod_sandbox_id=pod.id), is_gone),
    ):
        seconds = TOO_SHORT
        while await given_up(cri.call(cast(Any, verb), request, seconds)) and not await soon(is_done):
            seconds *= 2  # it was cut off on its way
        assert await is_done()


async def test_a_caller_that_dies_in_the_middle_changes_nothing(cri: Cri, cribd: Cribd) -> None:
    config = cri.pod_config("orphaned")
    async with cribd.connect() as dying:
        call = dying.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config))
        await asyncio.sleep(0.003)  # on its way, not yet answered
        call.cancel()
    pod = await pods.run_sandbox(cri.connection, config)
    assert set(await cri.sandboxes()) == {pod.id}
