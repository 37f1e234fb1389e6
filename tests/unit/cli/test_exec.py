"""`crib exec`: pipes, terminals, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crib.cli import execute, options
from crib.cli.session import CliSession, CommandError
from crib.client.errors import NotOffered, RuntimeFailure, WrongState
from crib.model.errors import Broken
from tests.unit.cli.stream_pod import crib, serving, terminal
from tests.unit.client.fake_runtime import World, serve
from tests.unit.streaming.lab import BOUND, Command, Lab, cat, forever, until

Served = tuple[CliSession, World, Lab]


async def ends_well(command: Command) -> int:
    return 0


@pytest.fixture
def lab_world(served: Served) -> tuple[World, Lab]:
    return served[1:]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as made:
        yield made


@pytest.mark.parametrize("transport", ["auto", "spdy"])
async def test_output_and_errors_are_told_apart_and_the_code_is_the_commands(
    served: Served, capfdbinary: pytest.CaptureFixture[bytes], transport: str
) -> None:
    session, _, lab = served

    async def speak(command: Command) -> int:
        assert command.stderr is not None
        await command.say(b"out\xff")
        await command.stderr.write(b"err")
        return 7

    lab.script = speak
    wanted = options.ExecOptions("web", ["ls", "-l"], "box", transport=options.Transport(transport))
    assert await execute.execute(session, wanted) == 7
    assert capfdbinary.readouterr() == (b"out\xff", b"err")
    assert lab.commands[0].wanted.argv == ("ls", "-l")  # type: ignore[union-attr]  # it is an exec
    assert not lab.commands[0].wanted.stdin


async def test_output_is_written_before_the_command_has_ended(
    served: Served, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    session, _, lab = served
    seen = asyncio.Event()

    async def waits(command: Command) -> int:
        await command.say(b"first")
        await seen.wait()
        return 0

    lab.script = waits
    running = asyncio.ensure_future(execute.execute(session, options.ExecOptions("web", ["ls"])))
    await until(lambda: capfdbinary.readouterr().out == b"first")
    seen.set()
    assert await running == 0


async def test_input_goes_to_its_end(served: Served) -> None:
    session, _, lab = served
    lab.script = cat
    data = os.urandom(1 << 20)
    done = await crib(session, "exec", "-i", "web", "cat", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


async def test_a_file_is_input_too(served: Served, tmp_path: Path) -> None:
    session, _, lab = served
    lab.script = cat
    (tmp_path / "file").write_bytes(b"from a file")
    with (tmp_path / "file").open("rb") as file:
        done = await crib(session, "exec", "-i", "web", "cat", stdin=file)
    assert (done.returncode, done.stdout) == (0, b"from a file")


async def test_a_command_that_reads_no_more_ends_the_program(served: Served) -> None:
    session, _, lab = served

    async def ends(command: Command) -> int:
        return 4

    lab.script = ends
    done = await crib(session, "exec", "-i", "web", "true", stdin=bytes(8 << 20))
    assert (done.returncode, done.stderr) == (4, b"")


async def test_what_cannot_run_is_told(served: Served) -> None:
    session, _, lab = served
    lab.failure = Broken("there is no program\x1b[31m ls")
    with pytest.raises(RuntimeFailure, match="there is no program"):
        await execute.execute(session, options.ExecOptions("web", ["ls"]))
    done = await crib(session, "exec", "web", "ls")
    assert (done.returncode, done.stderr) == (125, b"crib: there is no program?[31m ls\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("executable file `ls` not found in $PATH: No such file or directory", 127),
        ('exec: "ls": executable file not found in $PATH: unknown', 127),
        ("open executable: Permission denied", 126),
        ("exec /ls: exec format error", 126),
    ],
)
async def test_what_did_not_run_has_the_codes_of_docker(served: Served, words: str, code: int) -> None:
    session, _, lab = served
    lab.failure = Broken(f"exec of 'ls' in container {lab.box.id}: {words}")
    with pytest.raises(CommandError) as failed:
        await execute.execute(session, options.ExecOptions("web", ["ls"]))
    assert failed.value.exit_code == code
    assert str(failed.value) == f"exec of 'ls' in container default/web/box: {words}"


async def test_a_container_that_does_not_run_is_told_with_its_code(served: Served) -> None:
    session, world, lab = served
    world.exited(lab.box.id, 3)
    with pytest.raises(WrongState, match=r"default/web/box \(.*\) does not run: it has exited \(code 3\)"):
        await execute.execute(session, options.ExecOptions("web", ["ls"]))
    with pytest.raises(WrongState, match=r"it has exited \(code 3\)"):
        await execute.attach(session, options.AttachOptions("web"))


async def test_user_variables_and_directory_go_to_cribs_own_call(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, lab = served
    monkeypatch.setenv("HERE", "inherited")
    lab.script = ends_well
    wanted = options.ExecOptions(
        "web", ["id"], user="ali:wheel", env=["A=b=c", "HERE", "NOT_HERE"], workdir="/tmp"
    )
    assert await execute.execute(session, wanted) == 0
    (asked,) = world.exec_as_requests
    assert (asked.user, asked.working_dir, list(asked.exec.cmd)) == ("ali:wheel", "/tmp", ["id"])
    assert {one.key: one.value for one in asked.envs} == {"A": b"b=c", "HERE": b"inherited"}


async def test_variables_may_come_from_files_and_those_of_the_command_line_count_more(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session, world, lab = served
    monkeypatch.setenv("HERE", "inherited")
    lab.script = ends_well
    (tmp_path / "one").write_text('# who\nA=1\n\nHERE\nNOT_HERE\nQUOTED="x y"\r\n')
    (tmp_path / "two").write_text("A=2\nB=2\n")
    files = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert (
        await execute.execute(session, options.ExecOptions("web", ["id"], env=["B=3"], env_file=files)) == 0
    )
    (asked,) = world.exec_as_requests
    found = {one.key: one.value for one in asked.envs}
    assert found == {"A": b"2", "B": b"3", "HERE": b"inherited", "QUOTED": b'"x y"'}
    (tmp_path / "one").write_text("A=1\n B=2\n")
    with pytest.raises(CommandError, match="one: line 2 ' B=2' is not KEY=VALUE or KEY") as wrong:
        await execute.execute(session, options.ExecOptions("web", ["id"], env_file=files))
    assert wrong.value.exit_code == 2


async def test_another_runtime_that_cannot_do_that_is_told_before_anything_runs(
    tmp_path: Path, lab_world: tuple[World, Lab]
) -> None:
    world, lab = lab_world
    server = await serve(f"{tmp_path}/other", world, node=False)
    with pytest.raises(NotOffered, match="does not offer ExecAs"):
        await execute.execute(CliSession(f"{tmp_path}/other"), options.ExecOptions("web", ["id"], user="ali"))
    await server.stop(None)
    assert lab.commands == []


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"timeout": 3, "user": "ali"}, "work only without --user, --env, --env-file and --workdir"),
        ({"env": ["=x"]}, "--env '=x' is not KEY=VALUE or KEY"),
        ({"env_file": ["/not/there"]}, "cannot read /not/there: No such file or directory"),
        ({"workdir": "tmp"}, "--workdir 'tmp' is not an absolute path"),
    ],
)
async def test_what_makes_no_sense_is_wrong_usage(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message) as wrong:
        await execute.execute(CliSession("/none"), options.ExecOptions("web", ["id"], **wanted))
    assert wrong.value.exit_code == 2


async def test_a_terminal_is_lent_and_given_back(served: Served) -> None:
    session, _, lab = served

    async def shell(command: Command) -> int:
        assert command.stdin is not None
        await command.say(b"ready")
        typed = b""
        while b"\x04" not in typed:
            typed += await command.stdin.read()
        await command.say(typed)
        return 5

    lab.script = shell
    with terminal(session, "exec", "-it", "web", "sh") as screen:
        await screen.until_shown(b"ready")
        command = lab.commands[0]
        assert (command.wanted.tty, command.stderr) == (True, None)
        await until(lambda: command.sizes)
        assert (command.sizes[0].width, command.sizes[0].height) == (101, 33)
        await until(lambda: screen.is_raw)
        screen.resize(90, 20)
        await until(lambda: command.sizes[-1].width == 90)
        screen.type(b"\x03\x11\x10\x04")
        await screen.until_shown(b"\x03\x11\x10\x04")
        assert await screen.ended() == 5
        assert screen.is_as_before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]
)
async def test_a_signal_gives_the_terminal_back(served: Served, number: signal.Signals, code: int) -> None:
    session, _, lab = served
    lab.script = forever
    with terminal(session, "exec", "-it", "web", "sh") as screen:
        await until(lambda: lab.commands)
        await until(lambda: screen.is_raw)
        screen.program.send_signal(number)
        assert await screen.ended() == code
        assert screen.is_as_before
        await asyncio.wait_for(lab.commands[0].closed.wait(), BOUND)


async def test_a_runtime_that_goes_gives_the_terminal_back(served: Served) -> None:
    session, _, lab = served
    lab.script = forever
    with terminal(session, "exec", "-it", "web", "sh") as screen:
        await until(lambda: lab.commands)
        await until(lambda: screen.is_raw)
        await lab.server.stop()
        await screen.until_shown(b"crib is stopping: the command's terminal is hung up\r\n")
        assert await screen.ended() == 125
        assert screen.is_as_before


async def test_a_terminal_in_the_container_needs_none_here(served: Served) -> None:
    session, _, lab = served

    async def speak(command: Command) -> int:
        await command.say(b"x")
        return 0

    lab.script = speak
    done = await crib(session, "exec", "-t", "web", "ls")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x", b"")
    assert lab.commands[0].wanted.tty


@pytest.mark.parametrize("data", [b"", b"x"])
async def test_input_that_is_no_terminal_goes_to_none(served: Served, data: bytes) -> None:
    session, _, lab = served
    lab.script = cat
    done = await crib(session, "exec", "-it", "web", "cat", stdin=data)
    assert (done.returncode, done.stdout) == (0, data)
    assert done.stderr == b"crib: standard input is not a terminal, so the command gets none\n"
    assert not lab.commands[0].wanted.tty
