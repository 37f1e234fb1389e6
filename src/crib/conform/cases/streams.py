"""Exec, Attach and PortForward: the URLs, and what comes through them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from crib.client import streams
from crib.client.errors import ClientError, RuntimeFailure, Unavailable
from crib.client.streams import StreamOptions
from crib.client.streams.link import UpgradeRefused
from crib.conform.case import Level, case
from crib.conform.expect import Mismatch, NotApplicable, equal, refused, true
from crib.conform.trial import NOBODY, PATIENCE, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.wire.portforward import Target

if TYPE_CHECKING:
    from crib.client.streams import Session

_PORT = 9000
_SPDY = "CRI: streaming; remotecommand over SPDY/3.1"
_WEBSOCKET = "KEP-4006: remotecommand over WebSocket (v5.channel.k8s.io)"
_SHAPES = "CRI: one of stdin, stdout and stderr MUST be true; with tty stderr MUST be false"


async def _read(session: Session) -> tuple[bytes, bytes, int]:
    """All that comes, and the exit code."""

    async def all_of(reader: streams.Reader | None) -> bytes:
        return b"".join([data async for data in reader]) if reader is not None else b""

    out, err = await asyncio.gather(all_of(session.stdout), all_of(session.stderr))
    return out, err, await session.wait()


async def _run(
    trial: Trial, command: list[str], options: StreamOptions, say: bytes = b""
) -> tuple[bytes, bytes, int]:
    box = await trial.box()
    try:
        async with streams.exec(trial.connection, box.id, command, options) as session:
            if session.stdin is not None:
                await session.stdin.write(say)
                await session.stdin.close()
            return await _read(session)
    except UpgradeRefused as error:
        raise NotApplicable(f"the streaming server does not speak it: {error.message}") from error


async def _both_streams(trial: Trial, transport: Literal["spdy", "websocket"]) -> None:
    found = await _run(
        trial, ["sh", "-c", "echo out; echo err >&2; exit 3"], StreamOptions(transport=transport)
    )
    equal("stdout, stderr and exit code", found, (b"out\n", b"err\n", 3))


@case("Exec", Level.MUST, _SPDY, "ExecRequest.container_id,cmd,stdout,stderr", "ExecResponse.url")
async def streams_come_over_spdy(trial: Trial) -> None:
    """Over SPDY both output streams and the exit code come from the URL that Exec gives."""
    await _both_streams(trial, "spdy")


@case("Exec", Level.OPTIONAL, _WEBSOCKET, "ExecRequest.container_id,cmd,stdout,stderr", "ExecResponse.url")
async def streams_come_over_websocket(trial: Trial) -> None:
    """Over a WebSocket both output streams and the exit code come from the URL that Exec gives."""
    await _both_streams(trial, "websocket")


@case("Exec", Level.MUST, _SPDY, "ExecRequest.stdin")
async def stdin_reaches_the_command(trial: Trial) -> None:
    """What is sent to stdin reaches the command, and so does its end."""
    found = await _run(trial, ["cat"], StreamOptions(stdin=True, transport="spdy"), b"hello\n" * 1000)
    equal("stdout and exit code of cat", (found[0], found[2]), (b"hello\n" * 1000, 0))


@case("Exec", Level.OPTIONAL, _WEBSOCKET, "ExecRequest.stdin")
async def the_end_of_stdin_comes_over_websocket(trial: Trial) -> None:
    """Over a WebSocket of version 5 the end of stdin reaches the command."""
    found = await _run(trial, ["cat"], StreamOptions(stdin=True, transport="websocket"), b"hello\n")
    equal("stdout and exit code of cat", (found[0], found[2]), (b"hello\n", 0))


@case("Exec", Level.MUST, _SPDY, "ExecRequest.tty")
async def a_terminal_is_one(trial: Trial) -> None:
    """With tty the command's streams are a terminal, and its size is what the client says."""
    box = await trial.box()
    options = StreamOptions(tty=True, stdin=True, transport="spdy")
    script = "test -t 0 && test -t 1 && until test \"$(stty size)\" = '33 77'; do sleep 0.05; done; echo seen"
    async with streams.exec(trial.connection, box.id, ["sh", "-c", script], options) as session:
        await session.resize(77, 33)
        out, _, code = await _read(session)
    equal("exit code", code, 0)
    true("stdout", out.endswith(b"seen\r\n"), "seen, with the terminal's line end", out)


@case("Exec", Level.MUST, _SHAPES, "ExecRequest.stdin,stdout,stderr,tty")
async def impossible_streams_are_refused(trial: Trial) -> None:
    """No stream at all, and stderr with a terminal, are errors."""
    box = await trial.box()
    none = pb.ExecRequest(container_id=box.id, cmd=["true"])
    await refused("Exec without streams", trial.call(trial.runtime.Exec, none))
    both = pb.ExecRequest(container_id=box.id, cmd=["true"], stdout=True, stderr=True, tty=True)
    await refused("Exec with tty and stderr", trial.call(trial.runtime.Exec, both))


@case("Exec", Level.MUST, "kubelet: NOT_FOUND means gone", "ExecRequest.container_id")
async def of_an_unknown_container_has_no_url(trial: Trial) -> None:
    """Exec in a container that never was is an error."""
    request = pb.ExecRequest(container_id=NOBODY, cmd=["true"], stdout=True)
    await refused("Exec in an unknown id", trial.call(trial.runtime.Exec, request))


@case("Exec", Level.SHOULD, "Kubernetes' streaming library: a token is used once", "ExecResponse.url")
async def a_url_is_good_once(trial: Trial) -> None:
    """A URL cannot be used a second time."""
    from crib.client.streams.link import connect_spdy

    box = await trial.box()
    request = pb.ExecRequest(container_id=box.id, cmd=["true"], stdout=True)
    url = (await trial.call(trial.runtime.Exec, request)).url
    (await connect_spdy(url, ("v4.channel.k8s.io",), "")).abort()
    try:
        (await connect_spdy(url, ("v4.channel.k8s.io",), "")).abort()
    except ClientError:
        return
    raise Mismatch("the URL a second time", "an error", "a connection")


def _speaker(trial: Trial, *, stdin_once: bool = False) -> pb.ContainerConfig:
    config = trial.config("cat")
    config.stdin, config.stdin_once = True, stdin_once
    return config


async def _line(session: Session) -> bytes:
    assert session.stdout is not None
    found = b""
    while not found.endswith(b"\n") and (data := await session.stdout.read()):
        found += data
    return found


@case(
    "Attach",
    Level.MUST,
    _SPDY,
    "AttachRequest.container_id,stdin,stdout,stderr,tty",
    "AttachResponse.url",
    "ContainerConfig.stdin",
)
async def joins_the_first_process(trial: Trial) -> None:
    """What is sent reaches the container's first process, and what it writes comes back."""
    box = await trial.box(_speaker(trial))
    async with streams.attach(
        trial.connection, box.id, StreamOptions(stdin=True, transport="spdy")
    ) as session:
        assert session.stdin is not None
        await session.stdin.write(b"hello\n")
        equal("stdout", await _line(session), b"hello\n")
    equal("ContainerStatus: state after it", (await box.status()).state, pb.CONTAINER_RUNNING)


@case("Attach", Level.MUST, "CRI: ContainerConfig.stdin_once", "ContainerConfig.stdin_once")
async def stdin_once_ends_with_the_first_client(trial: Trial) -> None:
    """With stdin_once the program reads an end when the first attached client has left."""
    box = await trial.box(_speaker(trial, stdin_once=True))
    async with streams.attach(
        trial.connection, box.id, StreamOptions(stdin=True, transport="spdy")
    ) as session:
        assert session.stdin is not None
        await session.stdin.write(b"hello\n")
        equal("stdout", await _line(session), b"hello\n")
        await session.stdin.close()
    equal("exit code of cat, which has read its end", (await trial.exited(box.id)).exit_code, 0)


@case("Attach", Level.MUST, _SHAPES, "AttachRequest.stdin,stdout,stderr,tty")
async def attach_without_streams_is_refused(trial: Trial) -> None:
    """An attach without any stream, or with tty and stderr, is an error."""
    box = await trial.box()
    none = pb.AttachRequest(container_id=box.id)
    await refused("Attach without streams", trial.call(trial.runtime.Attach, none))
    both = pb.AttachRequest(container_id=box.id, stdout=True, stderr=True, tty=True)
    await refused("Attach with tty and stderr", trial.call(trial.runtime.Attach, both))


@case("Attach", Level.MUST, "kubelet: NOT_FOUND means gone", "AttachRequest.container_id")
async def attach_to_nothing_is_refused(trial: Trial) -> None:
    """An attach to a container that never was, or that has ended, is an error."""
    unknown = pb.AttachRequest(container_id=NOBODY, stdout=True)
    await refused("Attach to an unknown id", trial.call(trial.runtime.Attach, unknown))
    ended = await trial.ended(trial.config("true"))
    gone = pb.AttachRequest(container_id=ended.id, stdout=True)
    await refused("Attach to an ended container", trial.call(trial.runtime.Attach, gone))


async def _echo(trial: Trial, transport: Literal["spdy", "websocket"]) -> None:
    pod = await trial.pod()
    await trial.box(
        trial.config("sh", "-c", f"nc -ll -p {_PORT} -e cat || exec nc -l -p {_PORT} -e cat"), pod
    )
    said = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while not said:
                said = await _said(trial, pod.id, transport)
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    equal("what a server that echoes says", said, b"hello")


async def _said(trial: Trial, pod_id: str, transport: Literal["spdy", "websocket"]) -> bytes:
    """Empty while nobody listens."""
    try:
        async with streams.forward(trial.connection, pod_id, Target("tcp", _PORT), transport) as peer:
            await peer.write(b"hello")
            return await peer.read()
    except UpgradeRefused as error:
        raise NotApplicable(f"the streaming server does not speak it: {error.message}") from error
    except (RuntimeFailure, Unavailable):
        return b""


@case(
    "PortForward",
    Level.MUST,
    "CRI: PortForward; portforward.k8s.io over SPDY/3.1",
    "PortForwardRequest.pod_sandbox_id,port",
    "PortForwardResponse.url",
)
async def bytes_go_both_ways(trial: Trial) -> None:
    """A connection through the URL reaches what listens in the pod, both ways."""
    await _echo(trial, "spdy")


@case("PortForward", Level.OPTIONAL, "KEP-4006: port-forward over WebSocket", "PortForwardRequest.port")
async def bytes_go_through_a_websocket(trial: Trial) -> None:
    """A connection through a WebSocket reaches what listens in the pod."""
    await _echo(trial, "websocket")


@case("PortForward", Level.MUST, "kubectl port-forward shows the error", "PortForwardRequest.port")
async def a_closed_port_is_an_error(trial: Trial) -> None:
    """A port on which nobody listens is told as an error on that connection."""
    pod = await trial.pod()
    await trial.box(pod=pod)
    try:
        async with streams.forward(trial.connection, pod.id, Target("tcp", 9), "spdy") as peer:
            await peer.write(b"hello")
            async with asyncio.timeout(PATIENCE):
                data = await peer.read()
                while not data:  # it may end a moment before the error is there
                    await asyncio.sleep(0.05)
                    data = await peer.read()
    except (RuntimeFailure, Unavailable):
        return
    except TimeoutError:
        data = b""
    raise Mismatch("a connection to a closed port", "an error", data or "an end without a word")


@case("PortForward", Level.MUST, "kubelet: NOT_FOUND means gone", "PortForwardRequest.pod_sandbox_id")
async def of_an_unknown_pod_has_no_url(trial: Trial) -> None:
    """A port-forward to a sandbox that never was is an error."""
    request = pb.PortForwardRequest(pod_sandbox_id=NOBODY, port=[80])
    await refused("PortForward to an unknown id", trial.call(trial.runtime.PortForward, request))
