"""ExecSync as probes and hooks use it: exit codes, time-outs that end everything, output with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.client.errors import ClientError, InvalidRequest, NotFound, RuntimeFailure, TimedOut, WrongState
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri, Cribd, default_handler, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]

LIMIT = 16 << 20
"""Bytes of one message, and so of a command's output."""


@pytest.fixture(scope="module", params=["crun", "runc"])
def cribd(request: pytest.FixtureRequest) -> Iterator[Cribd]:
    with running_cribd(extra=default_handler(request.param)) as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection


@pytest.fixture
async def box(cri: Cri) -> str:
    return await cri.run_container(await cri.run_pod("box"), "sleep", "1000")


async def test_streams_and_exit_codes_come_apart(cri: Cri, box: str) -> None:
    outcome = await cri.execute(box, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (outcome.code, outcome.out, outcome.err) == (3, "out\n", "err\n")
    assert (await cri.execute(box, "sh", "-c", "kill -9 $$")).code == 137
    assert (await cri.execute(box, "true")).code == 0


async def test_a_program_that_is_not_there_is_an_error_that_names_it(cri: Cri, box: str) -> None:
    with pytest.raises(RuntimeFailure, match="nothere"):
        await cri.execute(box, "nothere")
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING


async def test_a_timeout_ends_children_that_left_the_session_too(cri: Cri, box: str) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    script = "busybox setsid sleep 4321 & (trap '' TERM HUP; exec sleep 4322) & exec sleep 4323"
    with pytest.raises(TimedOut) as caught:
        await cri.execute(box, "sh", "-c", script, timeout=1)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert "took longer than 1 s" in caught.value.message
    assert loop.time() - began > 0.9
    assert "sleep 432" not in (await cri.execute(box, "ps")).out
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING


async def test_a_child_in_the_background_that_holds_the_pipe_delays_nothing(cri: Cri, box: str) -> None:
    # who waited for the child would wait beyond the deadline of the call
    outcome = await cri.execute(box, "sh", "-c", "sleep 1000 & echo started")
    assert outcome.out == "started\n"


async def test_output_beyond_the_limit_is_cut_so_that_a_kubelet_takes_the_message(cri: Cri, box: str) -> None:
    flood = "head -c 40000000 /dev/zero"
    for script, least in (
        (f"{flood}; exit 4", (LIMIT - 100, 0)),
        (f"{flood}; {flood} >&2; exit 4", (LIMIT // 3,) * 2),
    ):
        request = pb.ExecSyncRequest(container_id=box, cmd=["sh", "-c", script])
        reply = await cri.call(
            cri.runtime.ExecSync, request
        )  # whose bound of a message is a kubelet's, 16 MiB
        assert reply.exit_code == 4
        assert len(reply.stdout) >= least[0]
        assert len(reply.stderr) >= least[1]
    assert await cri.sh(box, "echo fine") == "fine"


async def test_many_commands_at_once_get_each_their_own_output(cri: Cri, box: str) -> None:
    outcomes = await asyncio.gather(*(cri.sh(box, f"echo {number}") for number in range(20)))
    assert outcomes == [str(number) for number in range(20)]


async def test_what_cannot_be_executed_is_refused_with_the_right_code(cri: Cri, box: str) -> None:
    kinds: list[tuple[type[ClientError], str, list[str]]] = [
        (NotFound, "0" * 64, ["true"]),
        (InvalidRequest, box, []),
        (InvalidRequest, "", ["true"]),
    ]
    for kind, container, command in kinds:
        with pytest.raises(kind):
            await cri.execute(container, *command)
    await cri.stop_container(box)
    with pytest.raises(WrongState, match=box):
        await cri.execute(box, "true")


async def test_a_command_ends_with_its_container(cri: Cri, box: str) -> None:
    running = asyncio.ensure_future(cri.execute(box, "sleep", "1234"))
    await until(lambda: cri.sh(box, "ps | grep -q '[s]leep 1234$' && echo yes || true"))
    await cri.stop_container(box)
    [outcome] = await asyncio.gather(running, return_exceptions=True)
    # as crun saw it: the command's end (137), the container's, or neither (255)
    if not isinstance(outcome, WrongState):
        assert not isinstance(outcome, BaseException)
        assert outcome.code in (137, 255)
