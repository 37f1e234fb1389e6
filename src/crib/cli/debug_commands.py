"""`crib debug` and `crib log-level`: what the daemon is at, and how much of it is logged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from crib.cli.command import command, group
from crib.cli.forms import Format, Output
from crib.cli.session import CliSession, CommandError
from crib.cli.times import duration

if TYPE_CHECKING:
    from crib.stubs.node.v1.node_pb2 import LogRule

_LONGEST = 86_400 * 10**9
"""Nanoseconds that cribd lets a rule hold."""


class LogLevel(StrEnum):
    """As the configuration's log.level."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True)
class DumpOptions:
    output: Output = Format.TABLE


@dataclass(frozen=True)
class LogLevelOptions:
    level: Annotated[LogLevel | None, typer.Argument(help="What to log. Without it the rules are shown.")] = (
        None
    )
    pod: Annotated[str, typer.Option(metavar="POD", help="Only lines of this pod.")] = ""
    container: Annotated[
        str, typer.Option("--container", "-c", metavar="NAME", help="Only lines of this container.")
    ] = ""
    verb: Annotated[str, typer.Option(metavar="CALL", help="Only lines of calls such as StopContainer.")] = ""
    caller: Annotated[
        str, typer.Option(metavar="TEXT", help="Only lines of calls whose client calls itself so.")
    ] = ""
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long, as 90s, 10m or 2h; at most 24h.")
    ] = "10m"
    reset: Annotated[bool, typer.Option("--reset", help="End all other rules.")] = False


def add_debug_commands(app: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading."""
    debug = group("Look into the daemon.")
    app.add_typer(debug, name="debug", rich_help_panel=panel)
    command(debug, DumpOptions, panel)(dump)
    command(app, LogLevelOptions, panel, name="log-level")(log_level)


def dump(session: CliSession, options: DumpOptions) -> None:
    """Show what cribd is at: verbs, locks, tasks and threads with their stacks, memory, its last log lines.

    If cribd does not answer, send it SIGUSR1: it then writes the same to a file below its state directory.
    """
    session.run(_dump(session, options))


async def _dump(session: CliSession, options: DumpOptions) -> None:
    from crib.cli.output import as_dict, clean, document
    from crib.client import node

    async with session.connect() as connection:
        sections = await node.inspect_daemon(connection)
    if options.output is not Format.TABLE:
        document([as_dict(one) for one in sections], options.output)
        return
    for one in sections:
        left = f", {one.left_out} lines left out" if one.left_out else ""
        print(f"== {one.name}{left}")
        for line in one.lines:
            print(clean(line))
        print()


def log_level(session: CliSession, options: LogLevelOptions) -> None:
    """Log more or less for a while: everything, or only what belongs to a pod, a verb or a caller.

    Several rules may hold at once. Each ends by itself. crib info shows them too. --reset alone ends all.

    crib log-level debug --pod web --for 15m
    """
    session.run(_log_level(session, options))


async def _log_level(session: CliSession, options: LogLevelOptions) -> None:
    from crib.cli.output import tell
    from crib.client import node
    from crib.stubs.node.v1.node_pb2 import SetLogLevelRequest

    request = SetLogLevelRequest(
        level=options.level.value if options.level is not None else "",
        pod=options.pod,
        container=options.container,
        verb=options.verb,
        caller=options.caller,
        duration_ns=length_of_rule(options.duration),
        reset=options.reset,
    )
    async with session.connect() as connection:
        if request.level or request.reset:
            rules = await node.set_log_level(connection, request)
        else:
            rules = await node.log_rules(connection)
    if not rules:
        tell("the level that cribd was started with, and no rules")
    for rule in rules:
        tell(shown(rule))


def length_of_rule(text: str) -> int:
    """Nanoseconds of `1h30m`, `10m`, `90s`."""
    found = duration(text)
    if found is None:
        raise CommandError(f"--for {text}: give a time as 90s, 10m or 2h", 2)
    if not 0 < found <= _LONGEST:
        raise CommandError(f"--for {text}: it is at most 24h, and more than 0s", 2)
    return found


def shown(rule: LogRule) -> str:
    """`debug of pod web until 14:02:11`."""
    parts = ("pod", "container", "verb", "caller")
    which = ", ".join(f"{name} {getattr(rule, name)}" for name in parts if getattr(rule, name))
    ends = datetime.fromtimestamp(rule.ends_at / 1e9).astimezone()
    return f"{rule.level} of {which or 'everything'} until {ends:%H:%M:%S}"
