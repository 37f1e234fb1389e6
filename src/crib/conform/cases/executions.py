"""ExecSync."""

from __future__ import annotations

import time

from crib.client.errors import ClientError
from crib.conform.case import Level, case
from crib.conform.expect import Mismatch, equal, refused, true
from crib.conform.trial import NOBODY, PATIENCE, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_CRI = "CRI: ExecSync"
_LIMIT = 1
_MISSING = (126, 127)


@case(
    "ExecSync",
    Level.MUST,
    _CRI,
    "ExecSyncRequest.container_id,cmd,timeout",
    "ExecSyncResponse.stdout,stderr,exit_code",
)
async def has_output_and_exit_code(trial: Trial) -> None:
    """ExecSync gives what the command wrote on both streams and its exit code; another than 0 is no error."""
    reply = await (await trial.box()).execute("sh", "-c", "echo out; echo err >&2; exit 3")
    equal(
        "ExecSync: stdout, stderr and exit_code",
        (reply.stdout, reply.stderr, reply.exit_code),
        (b"out\n", b"err\n", 3),
    )


@case("ExecSync", Level.MUST, _CRI, "ExecSyncRequest.cmd")
async def takes_words_and_no_shell(trial: Trial) -> None:
    """The command's words reach it as they are."""
    reply = await (await trial.box()).execute("echo", "a  b", "$HOME", "*", "")
    equal("ExecSync: stdout of echo", reply.stdout, b"a  b $HOME * \n")


@case("ExecSync", Level.MUST, _CRI, "ExecSyncResponse.stdout")
async def gives_a_megabyte(trial: Trial) -> None:
    """A megabyte of output comes whole."""
    reply = await (await trial.box()).execute("sh", "-c", "yes 1234567 | head -c 1048576")
    true(
        "ExecSync: stdout",
        reply.stdout == b"1234567\n" * 131072,
        "1,048,576 bytes as they were written",
        f"{len(reply.stdout)} bytes",
    )


@case(
    "ExecSync",
    Level.MUST,
    "kubelet: exec probes read DEADLINE_EXCEEDED (ExecProbeTimeout)",
    "ExecSyncRequest.timeout",
)
async def ends_at_its_timeout(trial: Trial) -> None:
    """A command that takes longer than the time-out is DEADLINE_EXCEEDED, soon after it."""
    box = await trial.box()
    began = time.monotonic()
    await refused(
        "ExecSync of `sleep 30` with a time-out of 1 s",
        box.execute("sleep", "30", timeout=_LIMIT),
        "DEADLINE_EXCEEDED",
    )
    took = time.monotonic() - began
    true("its seconds", _LIMIT - 0.1 <= took < PATIENCE, "1 or a little more", round(took, 2))


@case("ExecSync", Level.SHOULD, "CRI: ExecSyncRequest.timeout stops the command", "ExecSyncRequest.timeout")
async def kills_what_takes_too_long(trial: Trial) -> None:
    """A command is not left running when its time is over."""
    box = await trial.box()
    await refused("ExecSync with a time-out of 1 s", box.execute("sleep", "4321", timeout=_LIMIT))
    left = await box.sh(
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'sleep[ ]4321' || true"
    )
    equal("commands that are left", left, "0")


@case("ExecSync", Level.MUST, "CRI: ExecSync, stdin is closed", "ExecSyncRequest.cmd")
async def has_no_stdin(trial: Trial) -> None:
    """A command that reads standard input reads an end."""
    reply = await (await trial.box()).execute("sh", "-c", "cat; echo end", timeout=10)
    equal("ExecSync: stdout", reply.stdout, b"end\n")


@case("ExecSync", Level.MUST, "kubelet: probes of an image without the program fail", "ExecSyncRequest.cmd")
async def a_missing_program_is_told(trial: Trial) -> None:
    """A program that is missing is an error, or an exit code of 126 or 127."""
    box = await trial.box()
    try:
        reply = await box.execute("/no/such/program")
    except ClientError:
        return
    true(
        "ExecSync of a missing program: exit_code",
        reply.exit_code in _MISSING,
        "126, 127 or an error",
        reply.exit_code,
    )


@case("ExecSync", Level.MUST, "CRI: ExecSyncRequest.cmd", "ExecSyncRequest.cmd")
async def no_command_is_refused(trial: Trial) -> None:
    """A request without a command is an error."""
    await refused("ExecSync without cmd", (await trial.box()).execute())


@case("ExecSync", Level.MUST, "kubelet: NOT_FOUND means gone", "ExecSyncRequest.container_id")
async def in_an_unknown_container_is_not_found(trial: Trial) -> None:
    """A command in a container that never was is NOT_FOUND."""
    request = pb.ExecSyncRequest(container_id=NOBODY, cmd=["true"])
    await refused("ExecSync in an unknown id", trial.call(trial.runtime.ExecSync, request), "NOT_FOUND")


@case("ExecSync", Level.MUST, "CRI: commands run in running containers", "ExecSyncRequest.container_id")
async def in_a_container_that_does_not_run_is_refused(trial: Trial) -> None:
    """A command in a created or ended container is an error."""
    created = await trial.create()
    ended = (await trial.ended(trial.config("true"))).id
    for state, container in (("created", created), ("ended", ended)):
        request = pb.ExecSyncRequest(container_id=container, cmd=["true"])
        await refused(f"ExecSync in a {state} container", trial.call(trial.runtime.ExecSync, request))


@case("ExecSync", Level.SHOULD, "kubelet: probes run while others do", "ExecSyncRequest.cmd")
async def commands_do_not_wait_for_each_other(trial: Trial) -> None:
    """A command gets its answer while another one is running in the same container."""
    import asyncio

    box = await trial.box()
    slow = asyncio.ensure_future(
        box.execute("sh", "-c", "until test -e /tmp/go; do sleep 0.05; done", timeout=int(PATIENCE))
    )
    try:
        await box.sh("touch /tmp/go")
        reply = await slow
    except ClientError as error:
        raise Mismatch("ExecSync of two commands at a time", "both end", error.message) from error
    finally:
        slow.cancel()
    equal("exit code of the slow one", reply.exit_code, 0)
