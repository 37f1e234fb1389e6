"""What every bench does around its measurements: reach the runtimes, take turns, report, watch the load."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crib.bench import charts
from crib.bench.figures import document, table
from crib.bench.target import parse_named, peer_pid
from crib.client import ClientError, Connection
from crib.stubs.runtime.v1.api_pb2 import VersionRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from crib.bench.figures import Report

Turn = TypeVar("Turn")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A runtime that answers. `pid` is its process, 0 when it cannot be found out."""

    name: str
    connection: Connection
    pid: int


async def reach(text: str, pids: Sequence[str] | None) -> Endpoint:
    """Connect to `NAME=ENDPOINT` and print what answers; `pids` are `NAME=PID`. ClientError."""
    name, address = parse_named(text, "endpoint")
    known = dict(parse_named(each, "pid") for each in pids or [])
    if not known.get(name, "0").isdecimal():
        raise ClientError(f"pid {known[name]!r} of {name} is not a number")
    connection = await Connection(address).__aenter__()
    try:
        version = await connection.call(connection.runtime.Version, VersionRequest())
    except BaseException:
        await connection.close()
        raise
    pid = int(known[name]) if name in known else peer_pid(connection.endpoint)
    say(f"{name}: {version.runtime_name} {version.runtime_version}, process {pid or 'unknown'}")
    return Endpoint(name, connection, pid)


def rotated(targets: Sequence[Turn], number: int) -> list[Turn]:
    """Each runtime is first as often as the others."""
    shift = number % len(targets)
    return [*targets[shift:], *targets[:shift]]


def load_warnings(when: str) -> list[str]:
    """What must be said of a machine that does other work too."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    return [f"load {load:.1f} on {cpus} CPUs {when} the measurement"] if load > 0.5 * cpus else []


def first_error(group: ExceptionGroup[Exception]) -> Exception:
    """The first plain error of a group."""
    error: Exception = group.exceptions[0]
    return first_error(error) if isinstance(error, ExceptionGroup) else error


async def carried_out(work: Awaitable[None]) -> None:
    """Returns when the bench is done, and says how long that took. Of several errors the first is raised."""
    began = time.monotonic()
    try:
        await work
    except ExceptionGroup as group:
        raise first_error(group) from group
    say(f"took {time.monotonic() - began:.0f} s")


def report(outcome: Report) -> None:
    """The table to standard output, a warning to standard error, everything to the files of the settings.

    ClientError if a chart cannot be made.
    """
    for line in table(outcome.samples, outcome.names):
        print(line)
    if outcome.warnings:
        say(warning_line(outcome.warnings))
    if outcome.settings.json:
        found = document(outcome.samples, dataclasses.asdict(outcome.settings), outcome.warnings)
        with open(outcome.settings.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    charts.write(outcome, outcome.settings.html, outcome.settings.png)


def warning_line(warnings: Sequence[str]) -> str:
    """One line, however many there are: the files have all of them."""
    more = (
        f", and {len(warnings) - 1} more reasons (--json and --html have them)" if len(warnings) > 1 else ""
    )
    return f"warning: the figures are noisy: {warnings[0]}{more}"


def say(text: str, end: str = "\n") -> None:
    """A line on standard error; without `end` only for a terminal."""
    if end or sys.stderr.isatty():
        print(text, file=sys.stderr, end=end, flush=True)
