"""`crib cp`: files to and from a container."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.local_streams import STDOUT, Output, read_input
from crib.cli.session import CommandError, say
from crib.client import copying, lookup
from crib.client.streams import StreamOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from crib.cli.options import CopyOptions
    from crib.cli.session import CliSession
    from crib.client.unpacking import Problems


@dataclass(frozen=True, slots=True)
class CopySide:
    """One side. `target` is empty for a path here; the path `-` is then a standard stream."""

    target: str
    path: str


def parse(text: str) -> CopySide:
    """A path with a colon is in a pod, unless it begins with `/` or `.`."""
    target, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return CopySide("", text)
    if not target or not path:
        raise CommandError(f"{text!r} is not POD:PATH", 2)
    return CopySide(target, path)


async def copy(session: CliSession, options: CopyOptions) -> None:
    """Copy; CommandError if anything was skipped."""
    source, destination = parse(options.source), parse(options.destination)
    if bool(source.target) == bool(destination.target):
        raise CommandError("one side must be POD:PATH, the other a local path or -", 2)
    async with session.connect() as connection:
        found = await lookup.find_container(
            connection, source.target or destination.target, options.container
        )
        streams = StreamOptions(transport=options.transport.value, ca_file=options.ca_file)
        container = copying.Container(connection, found.container.id, streams)
        if source.target:
            problems = await _from(container, source.path, destination.path, options.max_bytes)
        else:
            problems = await _to(container, source.path, destination.path)
    if problems is not None and problems.count:
        for line in problems.lines:
            say(f"crib: skipped: {line}")
        raise CommandError(f"{problems.count} entries were skipped")


async def _from(container: copying.Container, path: str, here: str, max_bytes: int) -> Problems | None:
    if here != "-":
        return await copying.download(container, path, here, max_bytes)
    with Output(STDOUT) as output:
        async with contextlib.aclosing(copying.archive_of(container, path)) as archive:
            async for data in archive:
                await output.write(data)
    return None


async def _to(container: copying.Container, here: str, path: str) -> Problems | None:
    if here != "-":
        return await copying.upload(container, here, path)
    await copying.unpack_in(container, path, _input())
    return None


async def _input() -> AsyncIterator[bytes]:
    while data := await read_input():
        yield data
