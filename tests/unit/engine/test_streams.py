"""Tickets for streams, and what goes on between a client's end and a command's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from crib.engine.streams import verbs
from crib.engine.streams.tickets import WAITING, Tickets
from crib.model.container import ContainerState
from crib.model.errors import Broken, Exhausted, InvalidRequest, NotFound, WrongState
from crib.model.ids import SandboxId
from crib.model.sandbox import SandboxState
from crib.model.streams import (
    AttachRequest,
    ExecProcess,
    ExecRequest,
    ForwardRequest,
    PodAddress,
    TerminalSize,
)
from tests.fakes.clock import ManualClock
from tests.unit.streaming.lab import Command, Lab, Pipe, cat, forever, until

BOX = ExecProcess(("sh",), stdin=True, stdout=True, stderr=True)


class Client:
    """See ports.TerminalStreams: `left` says that the client has gone."""

    def __init__(self) -> None:
        self.stdin = Pipe()
        self.stdout = Pipe()
        self.stderr = Pipe()
        self.left = asyncio.Event()
        self.sizes: asyncio.Queue[TerminalSize] = asyncio.Queue()

    async def resizes(self) -> AsyncIterator[TerminalSize]:
        while True:
            yield await self.sizes.get()

    async def gone(self) -> None:
        await self.left.wait()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    made = Lab()
    yield made
    await made.stop()


def run(lab: Lab, client: Client, process: ExecProcess = BOX) -> asyncio.Task[int | None]:
    return asyncio.ensure_future(lab.streams.exec(ExecRequest(lab.box.id, process), client))


async def opened(lab: Lab) -> Command:
    await until(lambda: lab.commands)
    return lab.commands[-1]


# tickets


def test_a_ticket_is_good_once_and_for_its_time() -> None:
    clock = ManualClock()
    tickets = Tickets(clock, lambda: 60)
    request = ForwardRequest(SandboxId("x"))
    token = tickets.issue(request)
    assert tickets.redeem("nonsense") is None
    assert tickets.redeem(token) is request
    assert tickets.redeem(token) is None
    late = tickets.issue(request)
    clock.advance(60)
    assert tickets.redeem(late) is None


def test_tickets_are_hard_to_guess_and_limited_and_the_old_make_room() -> None:
    clock = ManualClock()
    tickets = Tickets(clock, lambda: 60)
    tokens = {tickets.issue(ForwardRequest(SandboxId("x"))) for _ in range(WAITING)}
    assert len(tokens) == WAITING
    assert min(map(len, tokens)) >= 32
    with pytest.raises(Exhausted):
        tickets.issue(ForwardRequest(SandboxId("x")))
    clock.advance(60)
    tickets.issue(ForwardRequest(SandboxId("x")))


async def test_tickets_are_given_for_what_runs_and_makes_sense(lab: Lab) -> None:
    with pytest.raises(InvalidRequest, match="cmd"):
        lab.streams.issue_exec(lab.box.id, ExecProcess((), stdout=True))
    with pytest.raises(NotFound):
        lab.streams.issue_exec("nobody", BOX)
    lab.box = replace(lab.box, state=ContainerState.EXITED)
    with pytest.raises(WrongState, match="cannot exec"):
        lab.streams.issue_exec(lab.box.id, BOX)
    with pytest.raises(WrongState, match="cannot attach to"):
        lab.streams.issue_attach(lab.box.id, AttachRequest(lab.box.id, stdout=True))
    lab.pod = replace(lab.pod, state=SandboxState.NOT_READY)
    with pytest.raises(WrongState, match="cannot forward ports"):
        lab.streams.issue_forward(lab.pod.id, ForwardRequest(lab.pod.id))


@pytest.mark.parametrize(
    ("ports", "beyond", "allowed", "refused"),
    [
        ((), (), ("tcp", 1), ("udp", 1)),
        ((80,), (), ("tcp", 80), ("tcp", 81)),
        ((80,), (), ("tcp", 80), ("udp", 80)),
        ((), (PodAddress("udp", 53),), ("udp", 53), ("tcp", 53)),
        ((80,), (PodAddress("udp", 53),), ("udp", 53), ("tcp", 80)),
    ],
)
async def test_a_ticket_for_connections_says_where_they_may_go(
    lab: Lab,
    ports: tuple[int, ...],
    beyond: tuple[PodAddress, ...],
    allowed: tuple[str, int],
    refused: tuple[str, int],
) -> None:
    request = ForwardRequest(lab.pod.id, ports, beyond)
    await lab.streams.dial(request, PodAddress(*allowed))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=f"{refused[0]}:{refused[1]} was not asked for"):
        await lab.streams.dial(request, PodAddress(*refused))  # type: ignore[arg-type]


# between both ends


async def test_the_code_comes_after_all_output_is_with_the_client(lab: Lab) -> None:
    async def script(command: Command) -> int:
        for _ in range(10):
            await command.say(bytes(50_000))
        return 4

    lab.script = script
    client = Client()
    running = run(lab, client)
    command = await opened(lab)
    got = len(await client.stdout.read())
    assert not running.done()
    got += len(await client.stdout.read_all())
    assert await running == 4
    assert got == 500_000
    assert client.stderr.is_closed
    assert command.closed.is_set()


async def test_input_goes_on_into_the_void_when_the_command_reads_no_more(lab: Lab) -> None:
    done = asyncio.Event()

    async def script(command: Command) -> int:
        assert command.stdin is not None
        await command.stdin.break_off(BrokenPipeError())
        await done.wait()
        return 0

    lab.script = script
    client = Client()
    running = run(lab, client)
    for _ in range(10):
        await client.stdin.write(bytes(64 << 10))
    done.set()
    assert await running == 0


async def test_output_goes_on_into_the_void_when_the_client_reads_no_more(lab: Lab) -> None:
    async def script(command: Command) -> int:
        for _ in range(20):
            await command.say(bytes(64 << 10))
        return 0

    lab.script = script
    client = Client()
    await client.stdout.break_off(ConnectionResetError())
    assert await run(lab, client) == 0


async def test_sizes_reach_the_command(lab: Lab) -> None:
    lab.script = cat
    client = Client()
    running = run(lab, client)
    client.sizes.put_nowait(TerminalSize(80, 24))
    command = await opened(lab)
    await command.resized.wait()
    assert command.sizes == [TerminalSize(80, 24)]
    await client.stdin.close()
    assert await running == 0


async def test_a_command_whose_end_is_a_failure_is_put_away(lab: Lab) -> None:
    async def script(command: Command) -> int:
        raise Broken("exec of 'nope': no such file")

    lab.script = script
    with pytest.raises(Broken, match="no such file"):
        await run(lab, Client())
    assert lab.commands[0].closed.is_set()


# without a client


async def test_a_command_without_its_client_has_no_input_and_is_read_to_its_end(lab: Lab) -> None:
    async def script(command: Command) -> int:
        assert command.stdin is not None
        await command.stdin.read_all()
        for _ in range(20):
            await command.say(bytes(64 << 10))
        return 0

    lab.script = script
    client = Client()
    running = run(lab, client)
    command = await opened(lab)
    client.left.set()
    assert await running is None
    await command.closed.wait()
    assert command.task.result() == 0


async def test_of_too_many_commands_without_clients_the_oldest_is_let_go(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "ABANDONED", 2)
    lab.script = forever
    for _ in range(3):
        client = Client()
        client.left.set()
        assert await run(lab, client) is None
        await asyncio.sleep(0)
    oldest, *others = lab.commands
    await oldest.closed.wait()
    assert not any(command.closed.is_set() for command in others)
    await lab.keeper.close(0.5)
    assert all(command.closed.is_set() for command in others)


async def test_a_failure_without_a_client_is_no_error_of_ours(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(command: Command) -> int:
        assert command.stdin is not None
        await command.stdin.read_all()
        raise Broken("it went wrong")

    lab.script = script
    client = Client()
    client.left.set()
    assert await run(lab, client) is None
    await (await opened(lab)).closed.wait()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_terminal_without_its_client_is_closed_at_once(lab: Lab) -> None:
    lab.script = forever
    client = Client()
    client.left.set()
    assert await run(lab, client, replace(BOX, tty=True, stderr=False)) is None
    await (await opened(lab)).closed.wait()


async def test_by_the_setting_a_command_is_contained_and_killed_with_its_client() -> None:
    lab = Lab(kill_abandoned=True)
    lab.script = forever
    client = Client()
    client.left.set()
    assert await run(lab, client) is None
    command = await opened(lab)
    await command.closed.wait()
    assert command.killed.is_set()
    assert command.wanted == replace(BOX, contained=True)
    await lab.stop()


@pytest.mark.parametrize("kill", [True, False])
async def test_a_command_that_begins_after_its_caller_was_cancelled_is_let_go(
    *, kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(kill_abandoned=kill)
    lab.script = cat
    begin, begun = asyncio.Event(), asyncio.Event()
    make = lab._command

    async def slow(record: object, process: ExecProcess) -> Command:
        begun.set()
        await begin.wait()
        return make(process)

    monkeypatch.setattr(lab, "exec", slow)
    running = run(lab, Client())
    await begun.wait()
    running.cancel()
    await asyncio.wait((running,))
    begin.set()
    command = await opened(lab)
    await command.closed.wait()
    assert command.killed.is_set() == kill
    await lab.stop()


async def test_a_cancelled_stream_lets_go_of_its_command(lab: Lab) -> None:
    lab.script = cat
    running = run(lab, Client())
    command = await opened(lab)
    running.cancel()
    await asyncio.wait((running,))
    assert running.cancelled()
    await command.closed.wait()


async def test_attaching_leaves_the_container_alone(lab: Lab) -> None:
    lab.script = forever
    client = Client()
    request = AttachRequest(lab.box.id, stdout=True)
    running = asyncio.ensure_future(lab.streams.attach(request, client))
    command = await opened(lab)
    client.left.set()
    assert await running is None
    assert command.closed.is_set()
    assert not command.killed.is_set()
    assert not command.task.done()
