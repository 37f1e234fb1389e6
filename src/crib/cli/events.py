"""`crib events`: what happened on the node, a line for each event."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from crib.cli.forms import Format, is_table
from crib.cli.output import as_dict, document, short_id, tell
from crib.cli.session import CommandError, say
from crib.cli.times import moment
from crib.client import events as client
from crib.client.errors import NotOffered
from crib.stubs.node.v1.node_pb2 import Event, EventsCut, EventsRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crib.cli.history_options import EventsOptions
    from crib.cli.session import CliSession
    from crib.client import Connection

_CURSOR_DIGITS = 10
"""A number of at least so many digits is a cursor; crib counts from milliseconds since the epoch."""


async def events(session: CliSession, options: EventsOptions) -> None:
    """Print the events that are kept, or with --follow those to come."""
    request = _request(options, time.time_ns())
    async with session.connect() as connection:
        async for found in _found(connection, request):
            if options.json or options.output is Format.JSON:
                print(json.dumps(_as_json(found), ensure_ascii=True), flush=True)
            elif not is_table(options.output):
                document(_as_json(found), options.output)
            elif isinstance(found, EventsCut):
                say(cut_line(found))
            else:
                tell(line(found))


async def _found(connection: Connection, request: EventsRequest) -> AsyncIterator[Event | EventsCut]:
    try:
        if request.follow:
            async for found in client.follow(connection, request):
                yield found
            return
        async for answer in client.kept(connection, request):
            if answer.HasField("cut"):
                yield answer.cut
            for event in answer.events:
                yield event
    except NotOffered:
        if not request.follow:
            raise CommandError("this runtime keeps no events; follow those to come with -f") from None
        async for event in client.of_any_runtime(connection):
            if client.has(request, event):
                yield event


def _request(options: EventsOptions, now: int) -> EventsRequest:
    since = options.since
    is_cursor = since.isascii() and since.isdecimal() and len(since) >= _CURSOR_DIGITS
    wanted = EventsRequest(
        follow=options.follow,
        kinds=options.kinds or (),
        namespace=options.namespace,
        pod=options.pod,
        container=options.container,
    )
    if is_cursor:
        wanted.after = min(int(since), (1 << 64) - 1)
    elif since:
        wanted.since = moment(since, "--since", now, nor="the number of an event")
    elif options.follow:
        wanted.since = now
    return wanted


def line(event: Event) -> str:
    """NUMBER TIME KIND ACTION OBJECT MESSAGE."""
    words = [
        str(event.number) if event.number else "-",
        _clock(event.at),
        f"{event.kind:9}",
        f"{event.action:9}",
        _object(event),
    ]
    if event.HasField("exit_code"):
        words.append(f"exit code {event.exit_code}")
    return "  ".join(filter(None, [*words, event.message]))


def cut_line(cut: EventsCut) -> str:
    """Says what is missing, and where it goes on."""
    return (
        f"events after {cut.after} are no longer kept: "
        f"going on with {cut.resumes_at} of {_clock(cut.resumes_at_time)}"
    )


def _object(event: Event) -> str:
    if event.kind == "container":
        return f"{event.pod or short_id(event.pod_sandbox_id)}/{event.name or short_id(event.id)}"
    if event.kind == "image":
        return event.name or short_id(event.id)
    return event.pod or event.id


def _clock(nanoseconds: int) -> str:
    at = datetime.fromtimestamp(nanoseconds / 1e9).astimezone()
    return at.isoformat(sep=" ", timespec="milliseconds")


def _as_json(found: Event | EventsCut) -> dict[str, object]:
    if isinstance(found, EventsCut):
        return {"cut": as_dict(found)}
    return MessageToDict(found, preserving_proto_field_name=False)
