"""ExecSync, ReopenContainerLog, Status and what else is asked of a node."""

from __future__ import annotations

import asyncio

import pytest

from crib.engine.containers import execute
from crib.model.container import ExecCommand, ExecResult
from crib.model.errors import Broken, InvalidRequest, NotFound, TimedOut, Unavailable, WrongState
from tests.fakes.sessions import FakeSession
from tests.fakes.world import World, bounded, until


async def test_a_command_runs_in_a_running_container_and_gives_code_and_output(world: World) -> None:
    container = await world.running(await world.pod())
    async with bounded():
        result = await world.node.containers.exec_sync(
            container, ExecCommand(("sh", "-c", "echo hi; exit 3"))
        )
    assert result == ExecResult(3, b"hi\n", b"")


async def test_a_command_that_takes_too_long_is_timed_out(world: World) -> None:
    container = await world.running(await world.pod())
    with pytest.raises(TimedOut):
        await world.node.containers.exec_sync(container, ExecCommand(("sleep", "60"), timeout=0.01))


async def test_what_takes_too_long_is_ended_and_let_go_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await world.running(await world.pod())
    command = ExecCommand(("sleep", "60"), timeout=0.01)
    with pytest.raises(TimedOut):
        await world.node.containers.exec_sync(container, command)
    session = world.inside(container).commands[-1]
    assert await session.wait() == 137
    assert session.stdout is not None
    assert await session.stdout.read() == b""

    async def immortal(_session: FakeSession) -> None:
        raise Broken("its processes do not die")

    monkeypatch.setattr(FakeSession, "kill", immortal)
    with pytest.raises(TimedOut, match=r"longer than 0\.01 s: its processes do not die"):
        await world.node.containers.exec_sync(container, command)


async def test_a_daemon_that_stops_ends_commands_after_a_grace_and_says_what_became_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "DYING_TIME", 0.05)
    container = await world.running(await world.pod())
    exec_sync = world.node.containers.exec_sync

    async def told_at_the_end() -> str:
        calling = asyncio.ensure_future(exec_sync(container, ExecCommand(("sleep", "60"))))
        await until(lambda: bool(world.inside(container).commands))
        async with bounded():
            await exec_sync.end_after(0.01)
            with pytest.raises(Unavailable) as caught:
                await calling
        return str(caught.value)

    async def broken(_session: FakeSession) -> None:
        raise Broken("its processes do not die")

    async def hangs(_session: FakeSession) -> None:
        await asyncio.sleep(60)  # longer than anybody waits: it is cancelled

    what = f"crib is stopping: exec of 'sleep' in container {container}"
    assert await told_at_the_end() == f"{what} was ended"
    assert await world.inside(container).commands[-1].wait() == 137
    monkeypatch.setattr(FakeSession, "kill", broken)
    assert await told_at_the_end() == f"{what} may still run: its processes do not die"
    monkeypatch.setattr(FakeSession, "kill", hangs)
    assert await told_at_the_end() == f"{what} may still run"


async def test_the_beginning_of_an_output_is_kept(world: World) -> None:
    container = await world.running(await world.pod())
    command = ExecCommand(("sh", "-c", "echo hello"), output_limit=4)
    assert (await world.node.containers.exec_sync(container, command)).stdout == b"hell"


async def test_exec_is_refused_without_a_command_or_a_running_container(world: World) -> None:
    container = await world.created(await world.pod())
    with pytest.raises(InvalidRequest, match="cmd"):
        await world.node.containers.exec_sync(container, ExecCommand(()))
    with pytest.raises(WrongState, match="cannot exec container"):
        await world.node.containers.exec_sync(container, ExecCommand(("true",)))
    with pytest.raises(NotFound):
        await world.node.containers.exec_sync("f" * 64, ExecCommand(("true",)))


async def test_a_command_whose_caller_has_gone_is_ended_with_a_time_out_or_without(world: World) -> None:
    container = await world.running(await world.pod())
    for timeout in (0.0, 600.0):
        command = ExecCommand(("sleep", "60"), timeout=timeout)
        calling = asyncio.ensure_future(world.node.containers.exec_sync(container, command))
        await until(lambda: bool(world.inside(container).commands))
        session = world.inside(container).commands[-1]
        calling.cancel()
        async with bounded():
            assert await session.wait() == 137
        await until(lambda: world.node.abandon.under_way() == [])
        world.inside(container).commands.clear()


async def test_the_log_of_a_running_container_is_opened_anew(world: World) -> None:
    pod = await world.pod()
    container, waiting = await world.running(pod), await world.created(pod, "waiting")
    await world.node.containers.reopen_log(container)
    assert world.inside(container).reopened == 1
    with pytest.raises(WrongState):
        await world.node.containers.reopen_log(waiting)


async def test_status_tells_readiness_handlers_and_counts(world: World) -> None:
    pod = await world.pod()
    await world.running(pod)
    await world.node.sandboxes.stop(await world.pod("stopped"))
    status = await world.node.status()
    assert (status.runtime.ready, status.network.ready) == (True, True)
    assert status.default_handler == "crun"
    assert status.handlers["crun"].version == "1.8"  # type: ignore[index]  # a name
    assert status.counts == {
        "sandboxes": 2,
        "sandboxes_ready": 1,
        "containers": 1,
        "containers_running": 1,
        "images": 1,
    }


async def test_the_pod_range_is_passed_on_and_a_bad_one_refused(world: World) -> None:
    await world.node.configure_network("10.9.0.0/24")
    assert str(world.networks.subnet) == "10.9.0.0/24"
    with pytest.raises(InvalidRequest):
        await world.node.configure_network("nonsense")


async def test_the_pod_range_is_taken_and_kept_whole_though_the_caller_goes_away(world: World) -> None:
    hold = world.networks.failpoints.hold("configure")
    call = asyncio.ensure_future(world.node.configure_network("10.9.0.0/24"))
    async with bounded():
        await hold.reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        hold.release.set()
    await until(lambda: str(world.networks.subnet) == "10.9.0.0/24")


async def test_close_lets_go_of_the_parts_and_ends_subscriptions(world: World) -> None:
    subscription = world.node.events.subscribe()
    await world.close()
    assert [event async for event in subscription.events()] == []
    assert (world.images.closed, world.networks.closed) == (True, True)


async def test_a_stop_under_way_when_the_daemon_ends_still_sees_the_exit(world: World) -> None:
    container = await world.running(await world.pod())
    world.inside(container).stubborn = True
    hold = world.handler.failpoints.hold("signal")
    stopping = asyncio.ensure_future(world.node.containers.stop(container, 60.0))
    async with bounded():
        await hold.reached.wait()
        closing = asyncio.ensure_future(world.node.close(5.0))
        hold.release.set()
        world.handler.host.finish(container, 0)
        await stopping
        await closing
    assert world.records.containers[container].exit_code == 0


async def test_failures_of_the_hands_reach_the_caller_as_they_are(world: World) -> None:
    world.networks.failpoints.set("readiness=1*error(no bridge)")
    with pytest.raises(Broken, match="no bridge"):
        await world.node.status()
