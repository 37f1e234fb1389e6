"""Exec and attach at the real daemon: what both ends may do to each other, and what is left then."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

from crib.client import streams
from crib.client.errors import (
    ClientError,
    InvalidRequest,
    NotFound,
    RuntimeFailure,
    Unavailable,
    WrongState,
)
from crib.client.streams import StreamOptions
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.crilog import parse_line
from tests.system.labs.daemon import Cri, Cribd, running_cribd, until
from tests.system.labs.stream_lab import (
    BOUND,
    TRANSPORTS,
    Transport,
    box_in,
    crib,
    exists,
    finish,
    nothing_kept,
    run,
    seen,
)

pytestmark = [pytest.mark.root, pytest.mark.system]

both_ways = pytest.mark.parametrize("transport", TRANSPORTS)
TICKS = "i=0; while true; do i=$((i + 1)); echo tick $i; sleep 0.02; done"
FLOOD = "head -c 50000000 /dev/zero | tr '\\0' x"


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def set_cribd() -> Iterator[Cribd]:
    """One whose settings of streams are not the usual ones."""
    lines = ("[streaming]", 'tls = "self-signed"', "kill_abandoned = true", "attach_replay = 1000")
    with running_cribd(extra="\n".join(lines)) as daemon:
        yield daemon


@pytest.fixture
async def set_cri(set_cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(set_cribd), set_cribd.story() as connection:
        yield connection


@pytest.fixture
def own_cribd() -> Iterator[Cribd]:
    """A daemon for a story that ends it."""
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with nothing_kept(cribd), cribd.story() as connection:
        yield connection


def reading(transport: Transport = "websocket") -> StreamOptions:
    """Output only."""
    return StreamOptions(transport=transport)


def talking(transport: Transport = "websocket", *, tty: bool = False) -> StreamOptions:
    """Input and output."""
    return StreamOptions(tty, stdin=True, transport=transport)


# commands


@both_ways
async def test_a_command_has_its_streams_apart_and_its_exit_code(cri: Cri, transport: Transport) -> None:
    _, box = await box_in(cri, "box")
    script = "cat; echo end of input; echo err >&2; exit 3"
    outcome = await run(cri, box, "sh", "-c", script, stdin=b"in\n", transport=transport)
    assert (outcome.code, outcome.out, outcome.err) == (3, b"in\nend of input\n", b"err\n")
    assert (await run(cri, box, "sh", "-c", "kill -9 $$", transport=transport)).code == 137
    assert await run(cri, box, "true", transport=transport) == (await run(cri, box, "true"))


@both_ways
async def test_a_terminal_is_one_and_takes_sizes_and_keys(cri: Cri, transport: Transport) -> None:
    _, box = await box_in(cri, "box")
    async with streams.exec(cri.connection, box, ["sh"], talking(transport, tty=True)) as session:
        assert session.stdin is not None
        assert session.stderr is None
        await session.resize(101, 33)
        await session.stdin.write(b"until stty size | grep -q '^33 101$'; do :; done; echo seen $?\n")
        await seen(session.stdout, b"\nseen 0\r\n")
        await session.stdin.write(b"sh -c 'echo $((40 + 2)); exec sleep 1000'\n")
        await seen(session.stdout, b"\n42\r\n")
        await session.stdin.write(b"\x03")
        await seen(session.stdout, b"# ")  # the shell takes a key for a key from then on
        await session.stdin.write(b"echo $?\n")
        await seen(session.stdout, b"130\r\n/ # ")
        await session.stdin.write(b"\x04")
        assert (await finish(session)).code == 0


@both_ways
async def test_what_is_no_program_ends_with_127_and_says_so(cri: Cri, transport: Transport) -> None:
    _, box = await box_in(cri, "box")
    found = await run(cri, box, "nothere", transport=transport)
    assert found.code == 127
    assert b"nothere" in found.err


@both_ways
async def test_ending_the_input_of_a_command_that_has_ended_is_no_failure(
    cri: Cri, transport: Transport
) -> None:
    _, box = await box_in(cri, "box")
    async with streams.exec(cri.connection, box, ["true"], talking(transport)) as session:
        assert (await finish(session)).code == 0
        assert session.stdin is not None
        await session.stdin.close()
        await session.stdin.close()


async def test_what_cannot_be_streamed_is_refused_before_there_is_a_url(cri: Cri) -> None:
    pod, box = await box_in(cri, "box")
    runtime = cri.runtime
    refusals: list[tuple[type[ClientError], object, object]] = [
        (InvalidRequest, runtime.Exec, pb.ExecRequest(container_id=box, cmd=["a"])),
        (InvalidRequest, runtime.Exec, pb.ExecRequest(container_id=box, stdout=True)),
        (InvalidRequest, runtime.Exec, pb.ExecRequest(container_id=box, cmd=["a"], tty=True, stderr=True)),
        (NotFound, runtime.Exec, pb.ExecRequest(container_id="f" * 64, cmd=["a"], stdout=True)),
        (InvalidRequest, runtime.Attach, pb.AttachRequest(container_id=box)),
        (InvalidRequest, runtime.Attach, pb.AttachRequest(container_id=box, tty=True, stdout=True)),
        (NotFound, runtime.PortForward, pb.PortForwardRequest(pod_sandbox_id="f" * 64)),
    ]
    for kind, method, request in refusals:
        with pytest.raises(kind):
            await cri.call(method, request)  # type: ignore[arg-type]
    await cri.stop_container(box)
    with pytest.raises(WrongState):
        await run(cri, box, "true")
    with pytest.raises(WrongState):
        await cri.call(runtime.Attach, pb.AttachRequest(container_id=box, stdout=True))
    await cri.stop_pod(pod)
    with pytest.raises(WrongState):
        await cri.call(runtime.PortForward, pb.PortForwardRequest(pod_sandbox_id=pod.id))


@both_ways
async def test_a_child_in_the_background_keeps_no_session(cri: Cri, transport: Transport) -> None:
    _, box = await box_in(cri, "box")
    async with asyncio.timeout(BOUND):
        outcome = await run(cri, box, "sh", "-c", "sleep 4321 & echo started; exit 2", transport=transport)
    assert (outcome.code, outcome.out) == (2, b"started\n")
    await until(lambda: cri.sh(box, "ps | grep '[s]leep 4321' || true"))
    await cri.sh(box, "kill $(busybox pidof sleep 4321) || true")


async def test_a_hundred_sessions_at_once_have_each_their_own(cri: Cri) -> None:
    _, box = await box_in(cri, "box")

    async def one(number: int) -> None:
        said = str(number).encode() * 1000
        script = f"cat; echo {number} >&2; exit {number}"
        outcome = await run(cri, box, "sh", "-c", script, stdin=said, transport=TRANSPORTS[number % 2])
        assert (outcome.code, outcome.out, outcome.err) == (number, said, f"{number}\n".encode())

    await asyncio.gather(*(one(number) for number in range(100)))


# clients that go away


@both_ways
async def test_a_client_killed_within_output_holds_up_no_command(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    _, box = await box_in(cri, "box")
    script = f"{FLOOD}; touch /done"
    async with crib(cribd, "exec", "--transport", transport, "box", "--", "sh", "-c", script) as client:
        await client.seen(b"xxx")
        await client.kill()
    await exists(cri, box, "/done")


@both_ways
async def test_a_client_killed_within_input_ends_the_commands_input(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    _, box = await box_in(cri, "box")
    script = "wc -c > /count; touch /done"
    async with crib(cribd, "exec", "-i", "--transport", transport, "box", "--", "sh", "-c", script) as client:
        client.stdin.write(b"x" * 100_000)
        await client.stdin.drain()
        await exists(cri, box, "/count")
        await client.kill()
    await exists(cri, box, "/done")


@both_ways
async def test_a_killed_client_hangs_its_terminal_up(cri: Cri, transport: Transport) -> None:
    _, box = await box_in(cri, "box")
    script = "trap 'touch /hup; exit' HUP; echo ready; while true; do sleep 0.02; done"
    options = talking(transport, tty=True)
    async with streams.exec(cri.connection, box, ["sh", "-c", script], options) as session:
        await seen(session.stdout, b"ready")
    await exists(cri, box, "/hup")


async def test_commands_whose_clients_are_gone_are_ended_where_the_settings_say_so(set_cri: Cri) -> None:
    _, box = await box_in(set_cri, "box")
    script = "busybox setsid sleep 4321 & sleep 4322 & echo ready; trap '' HUP TERM; wait"
    for transport in TRANSPORTS:
        options = reading(transport)
        async with streams.exec(set_cri.connection, box, ["sh", "-c", script], options) as session:
            await seen(session.stdout, b"ready")
        await until(lambda: set_cri.sh(box, "ps | grep -q '[s]leep 432' || echo gone"), BOUND)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_crib_ends_at_a_signal_as_programs_do(cri: Cri, cribd: Cribd, number: signal.Signals) -> None:
    await box_in(cri, "box")
    async with crib(cribd, "exec", "box", "--", "sh", "-c", "echo ready; exec sleep 1000") as client:
        await client.seen(b"ready")
        code, _ = await client.end(number)
    assert code in (-number, 128 + number)


# settings


@both_ways
async def test_streams_are_secret_where_the_settings_say_so(set_cri: Cri, transport: Transport) -> None:
    pod, box = await box_in(set_cri, "box")
    outcome = await run(set_cri, box, "sh", "-c", "cat; exit 3", stdin=b"in", transport=transport)
    assert (outcome.code, outcome.out) == (3, b"in")
    for method, request in (
        (set_cri.runtime.Exec, pb.ExecRequest(container_id=box, cmd=["true"], stdout=True)),
        (set_cri.runtime.PortForward, pb.PortForwardRequest(pod_sandbox_id=pod.id)),
    ):
        assert (await set_cri.call(cast(Any, method), request)).url.startswith("https://127.0.0.1:")


@both_ways
async def test_an_attach_begins_with_what_was_written_where_the_settings_say_so(
    set_cri: Cri, transport: Transport
) -> None:
    _, box = await box_in(
        set_cri, f"box-{transport}", "sh", "-c", "echo before; read -r l; echo after", stdin=True
    )
    log = set_cri.cribd.logs / f"box-{transport}" / "box.log"
    await until(lambda: log.exists() and b"before" in log.read_bytes())
    async with streams.attach(set_cri.connection, box, talking(transport)) as session:
        assert (await finish(session, b"go\n")).out == b"before\nafter\n"


# containers and daemons that go away


@both_ways
@pytest.mark.parametrize("way", ["stop", "remove", "stop the pod"])
async def test_a_container_that_goes_ends_its_sessions(cri: Cri, way: str, transport: Transport) -> None:
    pod, box = await box_in(cri, "box")
    connection = cri.connection
    async with (
        streams.exec(connection, box, ["sh", "-c", "echo ready; exec sleep 1000"], reading(transport)) as one,
        streams.attach(connection, box, reading(transport)) as other,
    ):
        await seen(one.stdout, b"ready")
        match way:
            case "stop":
                await cri.stop_container(box)
            case "remove":
                await cri.remove_container(box)
            case _:
                await cri.stop_pod(pod)
        outcome, _ = await asyncio.gather(finish(one), finish(other), return_exceptions=True)
    # whether the command ended by itself or with its container is up to what dies first there
    if not isinstance(outcome, RuntimeFailure):
        assert not isinstance(outcome, BaseException)
        assert outcome.code in (137, 255), outcome


@both_ways
async def test_a_daemon_that_is_told_to_stop_says_so_to_its_clients(
    own_cribd: Cribd, transport: Transport
) -> None:
    cribd = own_cribd
    async with cribd.story() as cri:
        _, box = await box_in(cri, "box", "sh", "-c", TICKS)
        connection = cri.connection
        async with (
            streams.exec(connection, box, ["sh", "-c", "echo ready; exec cat"], talking(transport)) as one,
            streams.attach(connection, box, reading(transport)) as other,
        ):
            await seen(one.stdout, b"ready")
            await seen(other.stdout, b"tick")
            await asyncio.to_thread(cribd.stop)
            for session in (one, other):
                with pytest.raises(RuntimeFailure, match="stopping"):
                    await finish(session)
        await _goes_on(cribd, box, transport)


@both_ways
async def test_a_daemon_that_is_killed_leaves_containers_that_can_be_attached_to_again(
    own_cribd: Cribd, transport: Transport
) -> None:
    cribd = own_cribd
    async with cribd.story() as cri:
        _, box = await box_in(cri, "box", "sh", "-c", TICKS)
        connection = cri.connection
        async with (
            streams.exec(
                connection, box, ["sh", "-c", "echo ready; cat; touch /done"], talking(transport)
            ) as one,
            streams.attach(connection, box, reading(transport)) as other,
        ):
            await seen(one.stdout, b"ready")
            await seen(other.stdout, b"tick")
            cribd.kill()
            for session in (one, other):
                with pytest.raises((Unavailable, RuntimeFailure)):
                    await finish(session)
        await _goes_on(cribd, box, transport)


async def _goes_on(cribd: Cribd, box: str, transport: Transport) -> None:
    """The daemon is started again, and the container is as it was, ticking."""
    await asyncio.to_thread(cribd.start)
    async with cribd.connect() as cri:
        assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
        async with streams.attach(cri.connection, box, reading(transport)) as session:
            assert re.search(rb"tick \d+\n", await seen(session.stdout, b"\n"))
        await until(lambda: cri.sh(box, "ps | grep -q '[c]at$' || echo gone"))


# attach


async def test_several_clients_are_attached_at_once_and_one_goes(cri: Cri) -> None:
    script = 'while read -r line; do echo "<$line>"; done'
    _, box = await box_in(cri, "box", "sh", "-c", script, stdin=True)
    connection = cri.connection
    async with (
        streams.attach(connection, box, talking("websocket")) as one,
        streams.attach(connection, box, talking("spdy")) as two,
    ):
        async with streams.attach(connection, box, talking("spdy")) as third:
            for number, session in enumerate((one, two, third)):
                assert session.stdin is not None
                await session.stdin.write(b"%d\n" % number)
                for each in (one, two, third):
                    await seen(each.stdout, b"<%d>\n" % number)
        assert one.stdin is not None
        await one.stdin.close()
        assert two.stdin is not None
        await two.stdin.write(b"still here\n")
        for each in (one, two):
            await seen(each.stdout, b"<still here>\n")


@both_ways
async def test_stdin_once_ends_the_containers_input_with_its_client(cri: Cri, transport: Transport) -> None:
    _, box = await box_in(cri, "box", "sh", "-c", "cat; echo over; exit 4", stdin=True, stdin_once=True)
    async with streams.attach(cri.connection, box, talking(transport)) as session:
        assert (await finish(session, b"all\n")).out == b"all\nover\n"
    assert (await cri.exited(box, BOUND)).exit_code == 4


async def test_a_killed_client_of_stdin_once_ends_the_input_too(cri: Cri, cribd: Cribd) -> None:
    _, box = await box_in(cri, "box", "sh", "-c", "cat; exit 4", stdin=True, stdin_once=True)
    async with crib(cribd, "attach", "-i", "box") as client:
        client.stdin.write(b"hello\n")
        await client.seen(b"hello\n")
        await client.kill()
    assert (await cri.exited(box, BOUND)).exit_code == 4


@both_ways
async def test_who_reads_slowly_holds_up_neither_the_container_nor_others(
    cri: Cri, cribd: Cribd, transport: Transport
) -> None:
    script = "while read -r line; do head -c 999999 /dev/zero | tr '\\0' x; echo; done"
    _, box = await box_in(cri, f"slow-{transport}", "sh", "-c", script, stdin=True)
    connection = cri.connection
    async with (
        streams.attach(connection, box, reading(transport)) as slow,
        streams.attach(connection, box, talking(transport)) as fast,
    ):
        assert fast.stdin is not None
        fast_out = b""
        for _ in range(40):
            await fast.stdin.write(b"\n")
            fast_out += await seen(fast.stdout, b"\n")
        assert len(fast_out) == 40_000_000
        log = (cribd.logs / f"slow-{transport}" / "box.log").read_bytes().splitlines()
        lines = [parse_line(raw) for raw in log]
        assert sum(len(line.content) + (not line.partial) for line in lines) == len(fast_out)
        with pytest.raises(RuntimeFailure, match="behind"):
            await finish(slow)
