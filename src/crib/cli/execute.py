"""`crib exec` and `crib attach`: a process of a container, joined to this terminal or to pipes."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

from crib.cli.each import naming
from crib.cli.local_streams import STDIN, join
from crib.cli.session import CANNOT_RUN, NO_PROGRAM, CommandError, say
from crib.cli.terminal import DetachKeys, terminal_of
from crib.client import lookup, pods, streams
from crib.client.errors import RuntimeFailure, WrongState
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_EXITED,
    CONTAINER_RUNNING,
    ContainerStatusRequest,
    ExecSyncRequest,
)

if TYPE_CHECKING:
    from crib.cli.options import AttachOptions, ExecOptions
    from crib.cli.session import CliSession
    from crib.client import Connection

MARGIN = 30.0
"""Seconds for the runtime to end a command whose time-out has passed."""
MAX_ENV_FILE = 1 << 20
"""Characters."""
_DIFFERENT = "--user, --env, --env-file and --workdir"
_NO_PROGRAM = re.compile(r"no such file or directory|not found", re.IGNORECASE)
_CANNOT_RUN = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)
"""What runtimes other than crib, and all in ExecSync, say if a program could not be executed: the CRI has no
code for it.
"""


async def execute(session: CliSession, options: ExecOptions) -> int:
    """Run the command and return its exit code. CommandError has a shell's code if it cannot be executed."""
    is_sync = options.sync or options.timeout
    if is_sync and (options.stdin or options.tty):
        raise CommandError("--timeout and --sync work only without --stdin and --tty", 2)
    differently = _differently(options)
    if is_sync and differently != streams.ExecAs():
        raise CommandError(
            "--timeout and --sync work only without --user, --env, --env-file and --workdir", 2
        )
    if options.detach and (is_sync or options.stdin or options.tty):
        raise CommandError("--detach works only without --stdin, --tty, --timeout and --sync", 2)
    async with session.connect() as connection:
        found = await _running(connection, options.target, options.container)
        try:
            with naming(found):
                if options.detach:
                    code, problem = await streams.exec_detached(
                        connection, found.id, options.words, differently
                    )
                    if code:
                        raise CommandError(problem, code)
                    return 0
                if is_sync:
                    return await _bounded(connection, found.id, options)
                return await _streamed(connection, found.id, options, differently)
        except RuntimeFailure as error:
            if _CANNOT_RUN.search(error.message):
                raise CommandError(error.message, CANNOT_RUN) from error
            if _NO_PROGRAM.search(error.message):
                raise CommandError(error.message, NO_PROGRAM) from error
            raise


def _differently(options: ExecOptions) -> streams.ExecAs:
    envs: dict[str, str] = {}
    for path in options.env_file or ():
        for number, line in enumerate(_lines_of(path), 1):
            if line.strip() and not line.startswith("#"):
                _set(envs, line, f"--env-file {path}: line {number}")
    for text in options.env or ():
        _set(envs, text, "--env")
    if options.workdir and not options.workdir.startswith("/"):
        raise CommandError(f"--workdir {options.workdir!r} is not an absolute path", 2)
    return streams.ExecAs(options.user, envs, options.workdir)


def _set(envs: dict[str, str], text: str, origin: str) -> None:
    """Without a value it is ours, if there is one."""
    key, equals, value = text.partition("=")
    if not key or key != key.strip():
        raise CommandError(f"{origin} {text!r} is not KEY=VALUE or KEY", 2)
    if equals or key in os.environ:
        envs[key] = value if equals else os.environ[key]


def _lines_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_ENV_FILE + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", 2) from error
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8 text", 2) from None
    if len(text) > MAX_ENV_FILE:
        raise CommandError(f"{path} has more than {MAX_ENV_FILE} characters", 2)
    return text.splitlines()


async def _running(connection: Connection, target: str, name: str) -> lookup.PodOrContainer:
    """The container that is meant; WrongState says how it ended if it does not run."""
    found = await lookup.find_container(connection, target, name)
    container, pod = found.container, found.pod
    label = lookup.container_label(container, [pod])
    if container.state == CONTAINER_EXITED:
        status = await pods.container_status(connection, container.id)
        raise WrongState(f"container {label} does not run: it has exited (code {status.exit_code})")
    if container.state != CONTAINER_RUNNING:
        raise WrongState(f"container {label} does not run: it is {lookup.state_of(container)}")
    return lookup.PodOrContainer(pod, container)


async def _streamed(
    connection: Connection, container_id: str, options: ExecOptions, differently: streams.ExecAs
) -> int:
    wanted = streams.StreamOptions(
        _gets_terminal(options), options.stdin, transport=options.transport.value, ca_file=options.ca_file
    )
    async with streams.exec(connection, container_id, options.words, wanted, differently) as remote:
        code = await join(remote, wanted)
    assert code is not None
    return code


def _gets_terminal(options: ExecOptions) -> bool:
    """As requested, unless the input is not a terminal: its end could not be passed on to a terminal."""
    if options.tty and options.stdin and terminal_of(STDIN) is None:
        say("crib: standard input is not a terminal, so the command gets none")
        return False
    return options.tty


async def _bounded(connection: Connection, container_id: str, options: ExecOptions) -> int:
    """Through ExecSync, because only that has a time-out. The output comes when the command has ended."""
    request = ExecSyncRequest(container_id=container_id, cmd=options.words, timeout=options.timeout)
    limit = options.timeout + MARGIN if options.timeout else 0
    reply = await connection.call(connection.runtime.ExecSync, request, timeout=limit)
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.buffer.flush()
    return reply.exit_code


_TERMINAL = (("record", "config", "tty"), ("runtimeSpec", "process", "terminal"))
"""Where the verbose status says whether a container has a terminal: of crib, of containerd and CRI-O."""


async def attach(session: CliSession, options: AttachOptions) -> int:
    """Stay attached until the container ends or the keys are typed; returns 0."""
    keys = DetachKeys(options.detach_keys)
    async with session.connect() as connection:
        found = await _running(connection, options.target, options.container)
        tty = options.tty
        if tty is None:
            tty = await has_terminal(connection, found.id)
        wanted = streams.StreamOptions(
            tty, options.stdin, transport=options.transport.value, ca_file=options.ca_file
        )
        with naming(found):
            async with streams.attach(connection, found.id, wanted) as remote:
                code = await join(remote, wanted, keys)
    if code is None:
        say("detached")
    return code or 0


async def has_terminal(connection: Connection, container_id: str) -> bool:
    """Whether the container has a terminal, according to the runtime's verbose status."""
    request = ContainerStatusRequest(container_id=container_id, verbose=True)
    status = await connection.call(connection.runtime.ContainerStatus, request)
    try:
        info = json.loads(status.info.get("info", "{}"))
    except ValueError:
        return False
    return any(_at(info, path) is True for path in _TERMINAL)


def _at(value: object, path: tuple[str, ...]) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
