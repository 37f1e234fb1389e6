"""The port `ContainerStreams`: in memory, and crun with conmon."""

from __future__ import annotations

import signal

import pytest

from crib.engine.containers.execute import run_command
from crib.model.container import ExecCommand
from crib.model.errors import CannotExecute, InvalidRequest, TimedOut, Unavailable, WrongState
from crib.model.streams import AttachRequest, ExecProcess, PodAddress, TerminalSize
from tests.contract.handler_lab import HandlerLab, finish, line, rest
from tests.fakes.world import bounded


async def test_a_command_in_a_container_gives_code_and_output(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        result = await run_command(
            lab.handler.streams, record, ExecCommand(("/bin/sh", "-c", "echo hi; exit 3"))
        )
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"hi\n", b"")
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_command_that_takes_too_long_is_timed_out(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        with pytest.raises(TimedOut):
            await run_command(lab.handler.streams, record, ExecCommand(("/bin/sleep", "600"), timeout=0.3))
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_command_has_the_streams_that_were_asked_for_and_ends_after_them(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    script = ("/bin/sh", "-c", "echo hi; exit 3")
    async with bounded():
        both = await lab.handler.streams.exec(record, ExecProcess(script, stdout=True, stderr=True))
        assert both.stdin is None
        assert await finish(both) == (3, b"hi\n", b"")
        none = await lab.handler.streams.exec(record, ExecProcess(script, stdin=True))
        assert none.stdin is not None
        assert (none.stdout, none.stderr) == (None, None)
        assert (await finish(none))[0] == 3
        tty = await lab.handler.streams.exec(record, ExecProcess(script, tty=True, stdout=True))
        tty.resize(TerminalSize(80, 24))
        assert tty.stderr is None
        assert await finish(tty) == (3, b"hi\r\n", b"")
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_command_reads_what_is_written_and_then_an_end(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        session = await lab.handler.streams.exec(record, ExecProcess(("/bin/cat",), stdin=True, stdout=True))
        assert session.stdin is not None
        await session.stdin.write(b"one\n")
        assert await line(session.stdout) == b"one\n"
        await session.stdin.write(b"two\n")
        await session.stdin.close()
        await session.stdin.close()
        assert await finish(session) == (0, b"two\n", b"")
        with pytest.raises(ConnectionError):
            await session.stdin.write(b"late")
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_command_can_be_ended_and_a_terminal_hung_up(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        for contained in (False, True):
            process = ExecProcess(("/bin/sleep", "600"), stdout=True, contained=contained)
            session = await lab.handler.streams.exec(record, process)
            await session.kill()
            assert await finish(session) == (137, b"", b"")
            await session.close()
            await session.kill()
        hung_up = await lab.handler.streams.exec(
            record, ExecProcess(("/bin/sleep", "600"), tty=True, stdout=True)
        )
        await hung_up.close()
        assert await hung_up.wait() == 129
        assert await rest(hung_up.stdout) == b""
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_detached_command_has_no_streams_and_runs_on(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        script = ("/bin/sh", "-c", "cat; echo out; echo err >&2; sleep 600")
        session = await lab.handler.streams.exec(record, ExecProcess(script, detached=True))
        assert (session.stdin, session.stdout, session.stderr) == (None, None, None)
        await session.kill()
        assert await session.wait() == 137
        await session.close()
        with pytest.raises(CannotExecute):
            await lab.handler.streams.exec(record, ExecProcess(("nosuch",), detached=True))
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_what_a_command_leaves_in_the_background_is_not_waited_for(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    script = ("/bin/sh", "-c", "sleep 600 & echo started")
    async with bounded():
        session = await lab.handler.streams.exec(record, ExecProcess(script, stdout=True))
        assert await finish(session) == (0, b"started\n", b"")
        await lab.gone(record)
        await lab.handler.pods.remove(pod)


async def test_a_command_that_cannot_be_run_is_told_as_what_it_is(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod)
    async with bounded():
        for tty in (False, True):
            for program, code in (("nosuch", 127), ("/bin/nosuch", 127), ("/etc/passwd", 126), ("/bin", 126)):
                process = ExecProcess((program,), tty=tty, stdout=True)
                with pytest.raises(CannotExecute) as caught:
                    await finish(await lab.handler.streams.exec(record, process))
                assert (caught.value.code, program) == (code, program), caught.value.words
        await lab.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        await lab.exit_of(record)
        with pytest.raises(WrongState):
            await lab.handler.streams.exec(record, ExecProcess(("/bin/true",), stdout=True))
        with pytest.raises(WrongState):
            await lab.handler.streams.attach(record, AttachRequest(record.id, stdout=True))
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_all_who_are_attached_see_the_output_and_the_end(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/cat", stdin=True)
    async with bounded():
        watcher = await lab.handler.streams.attach(record, AttachRequest(record.id, stdout=True))
        assert watcher.stdin is None
        assert watcher.stderr is None
        for text in (b"one\n", b"two\n"):
            writer = await lab.handler.streams.attach(
                record, AttachRequest(record.id, stdin=True, stdout=True)
            )
            assert writer.stdin is not None
            await writer.stdin.write(text)
            assert await line(writer.stdout) == text
            assert await line(watcher.stdout) == text
            await writer.kill()
            await writer.stdin.close()
            await writer.close()
            await writer.close()
            assert await rest(writer.stdout) == b""
        await lab.handler.containers.signal(record, signal.SIGKILL, everyone=True)
        assert await finish(watcher) == (137, b"", b"")
        await lab.exit_of(record)
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_with_stdin_once_a_session_s_end_is_the_input_s_and_a_watcher_s_is_not(lab: HandlerLab) -> None:
    pod = await lab.pod()
    record = await lab.running(pod, "/bin/cat", stdin=True, stdin_once=True)
    async with bounded():
        await (await lab.handler.streams.attach(record, AttachRequest(record.id, stdout=True))).close()
        watcher = await lab.handler.streams.attach(record, AttachRequest(record.id, stdout=True))
        writer = await lab.handler.streams.attach(record, AttachRequest(record.id, stdin=True))
        assert writer.stdin is not None
        await writer.stdin.write(b"last\n")
        await writer.stdin.close()
        assert await finish(watcher) == (0, b"last\n", b"")
        assert await finish(writer) == (0, b"", b"")
        await lab.exit_of(record)
        await lab.handler.containers.delete(record)
        await lab.handler.pods.remove(pod)


async def test_a_port_of_the_pod_is_reached_and_others_refuse(lab: HandlerLab) -> None:
    pod = await lab.pod()
    async with bounded(), lab.echoing(pod) as address:
        stream = await lab.handler.streams.dial(pod, [], address)
        await stream.write(b"hello\n")
        assert await line(stream) == b"hello\n"
        await stream.write(b"bye\n")
        await stream.close()
        assert await rest(stream) == b"bye\n"
        with pytest.raises(ConnectionError):
            await stream.write(b"late")
        stream.abort()
        stream.abort()
        with pytest.raises(Unavailable, match="refused"):
            await lab.handler.streams.dial(pod, [], PodAddress("tcp", 1))
        with pytest.raises(InvalidRequest, match="port"):
            await lab.handler.streams.dial(pod, [], PodAddress("udp", 0))
    async with bounded():
        await lab.handler.pods.remove(pod)
