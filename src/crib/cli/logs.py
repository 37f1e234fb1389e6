"""`crib logs`: the lines of containers' log files."""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crib.cli import colours
from crib.cli.labels import selector
from crib.cli.session import CommandError, say
from crib.cli.times import moment
from crib.client import ClientError, events, lookup
from crib.client import logs as client_logs
from crib.client import pods as client_pods
from crib.client.errors import NotFound
from crib.stubs.runtime.v1.api_pb2 import CONTAINER_EXITED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crib.cli.log_options import LogsOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.logs import WantedLines
    from crib.stubs.runtime.v1.api_pb2 import Container, ContainerStatus, PodSandbox
    from crib.wire.crilog import LogLine

RETRY = 1.0
"""Seconds between attempts to reach a runtime that does not answer."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A container's log."""

    pod: PodSandbox
    status: ContainerStatus

    def prefix(self, *, long: bool) -> str:
        namespace = f"{self.pod.metadata.namespace}/" if long else ""
        return f"[{namespace}{self.pod.metadata.name}/{self.status.metadata.name}]"


async def logs(session: CliSession, options: LogsOptions) -> None:
    """Write the lines; with --follow until all containers have exited or were removed."""
    if bool(options.targets) == bool(options.selector):
        raise CommandError("name pods or containers, or use --selector", 2)
    if options.all_containers and options.container:
        raise CommandError("--all-containers and --container exclude each other", 2)
    wanted = _wanted(options)
    async with session.connect() as connection:
        sources = await _sources(connection, options)
        several = len(sources) > 1 if options.prefix is None else options.prefix
        long = len({source.pod.metadata.namespace for source in sources}) > 1
        writers = [
            _Writer(options, source.prefix(long=long) if several else "", place)
            for place, source in enumerate(sources)
        ]
        failed: list[ClientError] = []
        if options.follow:
            follows = (_follow(connection, *each, wanted) for each in zip(sources, writers, strict=True))
            for outcome in await asyncio.gather(*follows):
                failed += [outcome] if outcome else []
        else:
            failed = _write_together(sources, writers, wanted)
    if failed and len(sources) == 1:
        raise failed[0]
    for error in failed:
        say(f"crib: {error}")
    if failed:
        raise CommandError(f"{len(failed)} of {len(sources)} logs could not be read")


def _wanted(options: LogsOptions) -> WantedLines:
    now = time.time_ns()
    return client_logs.WantedLines(
        None if options.tail < 0 else options.tail,
        moment(options.since, "--since", now) if options.since else 0,
        moment(options.until, "--until", now) if options.until else 0,
    )


async def _sources(connection: Connection, options: LogsOptions) -> list[_Source]:
    """Whose logs are meant, each once. ClientError."""
    chosen: dict[str, tuple[PodSandbox, Container]] = {}
    for name in options.targets or await _selected(connection, options):
        for pod, container in await _of_target(connection, name, options):
            chosen[container.id] = (pod, container)
    found: list[_Source] = []
    for pod, container in chosen.values():
        wanted = await _before(connection, pod, container) if options.previous else container
        if wanted is not None:
            found.append(_Source(pod, await client_pods.container_status(connection, wanted.id)))
        elif len(chosen) == 1:
            label = lookup.container_label(container, [pod])
            raise NotFound(f"of container {label} no earlier attempt is kept")
    if not found:
        raise NotFound("no earlier attempt of these containers is kept")
    return found


async def _selected(connection: Connection, options: LogsOptions) -> list[str]:
    fits = selector(options.selector, "--selector")
    found = [
        pod.id
        for pod in await lookup.pods(connection)
        if fits(pod.labels) and options.namespace in ("", pod.metadata.namespace)
    ]
    if not found:
        raise NotFound(f"no pod has the labels {options.selector}")
    return found


async def _of_target(
    connection: Connection, name: str, options: LogsOptions
) -> list[tuple[PodSandbox, Container]]:
    if not options.all_containers:
        found = await lookup.find_container(connection, name, options.container)
        return [(found.pod, found.container)]
    target = await lookup.find(connection, name)
    if target.container is not None:
        return [(target.pod, target.container)]
    own = lookup.latest(await lookup.containers(connection, target.pod.id))
    return [(target.pod, container) for container in own.values()]


async def _before(connection: Connection, pod: PodSandbox, container: Container) -> Container | None:
    """The attempt before this one, if it is still kept."""
    earlier = [
        one
        for one in await lookup.containers(connection, pod.id)
        if one.metadata.name == container.metadata.name and one.metadata.attempt < container.metadata.attempt
    ]
    return max(earlier, key=lambda one: one.metadata.attempt, default=None)


def _write_together(sources: list[_Source], writers: list[_Writer], wanted: WantedLines) -> list[ClientError]:
    """All lines in the order of their times; why logs could not be read."""
    failed: list[ClientError] = []

    def lines(place: int) -> Iterator[tuple[int, int, LogLine]]:
        try:
            for line in client_logs.read(sources[place].status.log_path, wanted):
                yield line.at, place, line
        except ClientError as error:
            failed.append(error)

    merged = heapq.merge(*map(lines, range(len(sources))), key=lambda found: found[:2])
    for _at, place, line in merged:
        writers[place].write(line)
    return failed


async def _follow(
    connection: Connection, source: _Source, writer: _Writer, wanted: WantedLines
) -> ClientError | None:
    """To the end of the container; why its log could not be read."""
    exited = asyncio.Event()
    if source.status.state == CONTAINER_EXITED:
        exited.set()

    def is_over() -> bool:
        return exited.is_set() or bool(wanted.until and time.time_ns() > wanted.until)

    async def watch() -> None:
        while not exited.is_set():
            try:
                await events.wait_exited(connection, source.status.id)
                exited.set()
            except NotFound:
                exited.set()  # removed
            except ClientError:
                await asyncio.sleep(RETRY)  # the runtime may restart, while containers keep writing

    watcher = asyncio.ensure_future(watch())
    try:
        async for line in client_logs.follow(source.status.log_path, wanted, ended=is_over):
            writer.write(line)
    except ClientError as error:
        return error
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
    return None


class _Writer:
    """Writes the lines of one container: to the stream that they were written to, unchanged."""

    def __init__(self, options: LogsOptions, prefix: str, place: int) -> None:
        """`place` is the container's among those whose lines are shown together."""
        self._prefixes = {
            name: f"{colours.of_one(prefix, place, stream)} ".encode() if prefix else b""
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
        }
        self._timestamps = options.timestamps
        self._stream = options.stream

    def write(self, line: LogLine) -> None:
        if self._stream is not None and line.stream != self._stream:
            return
        out = sys.stderr.buffer if line.stream == "stderr" else sys.stdout.buffer
        at = b""
        if self._timestamps:
            seconds, rest = divmod(line.at, 10**9)
            at = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z ".encode()
        out.write(self._prefixes[line.stream] + at + line.content + b"\n")
        out.flush()
