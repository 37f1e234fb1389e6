"""`crib why`: what ended a container, in sentences that say no more than is known."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.output import age, as_dict, document, short_id, size, tell
from crib.client import node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crib.cli.session import CliSession
    from crib.cli.usage_options import WhyOptions
    from crib.stubs.node.v1.node_pb2 import ContainerEnd, OomKill, StopRequest

_CAUSES = {
    "exited": "its first process ended by itself",
    "signal": "a signal that crib did not send",
    "oom": "it was out of memory",
    "stopped": "crib was asked to end it",
    "start-failed": "it could not be started",
    "monitor-lost": "its monitor had gone: nobody knows what ended it",
    "reboot": "the machine was started anew",
}
_LEVELS = {
    "container": "the container's own limit",
    "pod": "the limit of its pod",
    "ancestor": "the limit of a cgroup above its pod",
    "host": "the whole machine was out of memory",
}


async def why(session: CliSession, options: WhyOptions) -> None:
    """Say it of the last attempt of each container, or of all; NotOffered without crib's Node service."""
    async with session.connect() as connection:
        found = await node.ends(connection, options.target, options.container)
    shown = found if options.every else latest(found)
    form = Format.JSON if options.json else options.output
    if form is not Format.TABLE:
        document([as_dict(end) for end in shown], form)
        return
    now = time.time_ns()
    for number, end in enumerate(shown):
        if number:
            print()
        for line in lines(end, now):
            tell(line)


def latest(found: list[ContainerEnd]) -> list[ContainerEnd]:
    """Of each container in each pod the first in the list."""
    by_name: dict[tuple[str, str], ContainerEnd] = {}
    for end in found:
        by_name.setdefault((end.pod, end.name), end)
    return list(by_name.values())


def lines(end: ContainerEnd, now: int) -> Iterator[str]:
    """What is known of one container."""
    known_as = short_id(end.container_id) + (f", attempt {end.attempt}" if end.attempt else "")
    yield f"container {end.name} of pod {end.pod or short_id(end.pod_sandbox_id)} ({known_as})"
    if end.state in ("running", "created"):
        yield f"  has not ended: it is {end.state}"
        return
    ran = (
        f", after {_duration(end.finished_at - end.started_at)}"
        if end.started_at
        else ", before it was started"
    )
    cause = _CAUSES.get(end.cause, end.cause) or "why is not known"
    yield f"  ended {_moment(end.finished_at, now)}{ran}: {cause}"
    if end.HasField("oom"):
        yield f"  {_oom(end.oom)}"
    if end.cause not in ("monitor-lost", "reboot"):
        yield f"  exit code {end.exit_code}{_signal_words(end)}"
    if end.HasField("stop"):
        yield f"  {_stop(end.stop, now)}"
    if end.message:
        yield f"  message: {end.message}"
    if end.pod_problem:
        yield f"  its pod: {end.pod_problem}"
    if end.removed_at:
        yield f"  removed {_moment(end.removed_at, now)}, by {_asked(end.removal)}"


def _signal_words(end: ContainerEnd) -> str:
    return f", as after {_signal_name(end.signal)}" if end.signal else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom(kill: OomKill) -> str:
    """Which process was killed, and for whose limit."""
    victim = "the kernel killed a process of it"
    if kill.pid:
        own = f", with {size(kill.process_bytes)} of its own" if kill.process_bytes else ""
        victim = f"the kernel killed {kill.process} (pid {kill.pid}{own})"
    if not kill.level:
        return f"{victim}; whose limit was hit is not known"
    limit = f" of {size(kill.limit_bytes)}" if kill.limit_bytes else ""
    where = f", {kill.cgroup}" if kill.cgroup else ""
    source = "" if kill.logged else " (going by the counters of the cgroups)"
    return f"{victim}: {_LEVELS.get(kill.level, kill.level)}{limit}{where}{source}"


def _stop(order: StopRequest, now: int) -> str:
    if not order.call:
        return f"crib ended it by itself {_moment(order.at, now)}"
    how = (
        f"{_signal_name(order.signal)} first, a grace of {order.grace_seconds:g} s"
        if order.grace_seconds
        else "no grace"
    )
    killed = ", SIGKILL was sent" if order.killed else ""
    return f"{_asked(order)} {_moment(order.at, now)}: {how}{killed}"


def _asked(order: StopRequest) -> str:
    if order.reason:
        return f"{order.call} ({order.reason})"
    return f"{order.call} of {order.caller}" if order.call else "crib itself"


def _moment(at: int, now: int) -> str:
    return f"{age(at, now)} ago ({datetime.fromtimestamp(at / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC)"


def _duration(nanoseconds: int) -> str:
    seconds = max(0, nanoseconds) / 1e9
    return f"{seconds:.1f} s" if seconds < 100 else age(0, max(1, nanoseconds))
