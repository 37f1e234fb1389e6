"""`crib check`, `crib wipe`, `crib work` and `crib abandon`: looking after the node.

A check and a wipe go through the daemon or, with --offline, work without one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, TypeVar

from crib.cli.forms import Format
from crib.cli.node_options import WipeKind
from crib.cli.output import as_dict, clean, document, short_id, table, tell
from crib.cli.session import CommandError
from crib.client import node
from crib.client.errors import ClientError
from crib.stubs.node.v1.node_pb2 import Finding, Wiped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crib.cli.node_options import AbandonOptions, NodeCheckOptions, WipeOptions, WorkOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import Work

Item = TypeVar("Item", Finding, Wiped)
LINE_BYTES = 1 << 20
"""Maximum length of one line from cribd."""
NOT_LOOKED_AT = 2
"""Exit code if the check was not possible."""


async def check(session: CliSession, options: NodeCheckOptions) -> int:
    """Print a line for each finding, then a summary. Returns 1 if something is still wrong, else 0."""
    found: list[Finding] = []
    try:
        async for item in _findings(session, options):
            found.append(item)
            if options.output is Format.TABLE:
                print(finding_line(item), flush=True)
    except (ClientError, OSError) as error:
        raise CommandError(f"the node could not be checked: {error}", NOT_LOOKED_AT) from error
    if options.output is Format.TABLE:
        print(summary_line(found), flush=True)
    else:
        document([as_dict(item) for item in found], options.output)
    return 1 if any(map(node.is_left, found)) else 0


async def wipe(session: CliSession, options: WipeOptions) -> int:
    """Print a line for each thing. Returns 1 if one of them is still there, else 0."""
    if not (options.dry_run or options.yes):
        raise CommandError("nothing was removed: see what would be removed with --dry-run, then use --yes", 2)
    done: list[Wiped] = []
    async for item in _wiped(session, options):
        done.append(item)
        if options.output is Format.TABLE:
            print(wiped_line(item, dry_run=options.dry_run), flush=True)
    if options.output is not Format.TABLE:
        document([as_dict(item) for item in done], options.output)
    elif not done:
        print("nothing to remove", flush=True)
    return 1 if any(item.problem for item in done) else 0


def finding_line(item: Finding) -> str:
    """What is wrong where, and what a repair did or would do about it."""
    state = "note" if item.note else "repaired" if item.mended else "wrong"
    line = f"{state:<8} {item.area:<11} {item.subject}{': ' if item.subject else ''}{item.problem}"
    if item.mend_error:
        return clean(f"{line}; not repaired: {item.mend_error}")
    if state == "wrong":
        return clean(f"{line} ({f'--repair: {item.mend}' if item.mend else 'no repair can fix this'})")
    return clean(line)


def summary_line(found: Sequence[Finding]) -> str:
    """The number of findings of each kind."""
    left, mended = sum(map(node.is_left, found)), sum(item.mended for item in found)
    notes = sum(item.note for item in found)
    parts = [f"{left} wrong" if left else "nothing is wrong"]
    parts += [f"{mended} repaired"] if mended else []
    parts += [f"{notes} noted"] if notes else []
    return ", ".join(parts)


def wiped_line(item: Wiped, *, dry_run: bool) -> str:
    """What was or would be removed, or is still there."""
    if item.problem:
        return clean(f"still there  {item.kind:<10} {item.name}: {item.problem}")
    return clean(f"{'would remove' if dry_run else 'removed':<12} {item.kind:<10} {item.name}")


async def _findings(session: CliSession, options: NodeCheckOptions) -> AsyncIterator[Finding]:
    if options.offline:
        wanted = {"--repair": options.repair, "--quick": options.quick}
        arguments = ["--check", *(name for name, is_set in wanted.items() if is_set)]
        async for finding in _told_by_cribd(options.config, arguments, Finding, fine=(0, 1)):
            yield finding
        return
    async with session.connect() as connection:
        async for finding in node.check(connection, repair=options.repair, quick=options.quick):
            yield finding


async def _wiped(session: CliSession, options: WipeOptions) -> AsyncIterator[Wiped]:
    kinds = [kind.value for kind in options.kinds if kind is not WipeKind.ALL]
    if WipeKind.ALL in options.kinds:
        kinds = [kind for kind in node.WIPE_KINDS if kind not in ("containers", "volumes")]
    if options.offline:
        arguments = ["--wipe", *kinds, *(["--dry-run"] if options.dry_run else [])]
        has_told = False
        try:
            async for wiped in _told_by_cribd(options.config, arguments, Wiped, fine=(0,)):
                has_told |= bool(wiped.problem)
                yield wiped
        except CommandError:
            if not has_told:  # else the problem already explains the exit code
                raise
        return
    async with session.connect() as connection:
        items = node.wipe(connection, kinds, dry_run=options.dry_run, force=options.force)
        async for wiped in items:
            yield wiped


async def _told_by_cribd(
    config: str, arguments: Sequence[str], kind: type[Item], fine: tuple[int, ...]
) -> AsyncIterator[Item]:
    """Run the daemon's program for one job; CommandError with its last line if it fails."""
    from google.protobuf import json_format

    command = [sys.executable, "-m", "crib.daemon", *(["--config", config] if config else []), *arguments]
    with tempfile.TemporaryFile() as words, _started(command, words) as process:
        assert process.stdout is not None
        try:
            while line := await asyncio.to_thread(process.stdout.readline, LINE_BYTES):
                yield json_format.Parse(line, kind())
        except asyncio.CancelledError:
            process.terminate()
            raise
        code = process.wait()
        words.seek(0)
        said = words.read().decode("utf-8", "replace").strip().splitlines()
    if code not in fine:
        raise CommandError(said[-1] if said else f"cribd ended with {code}", NOT_LOOKED_AT)


def _started(command: Sequence[str], words: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words)


_WORK_COLUMNS = ("WORK", "ID", "POD", "SINCE", "CALLERS", "REQUEST", "STAGE")


async def work(session: CliSession, options: WorkOptions) -> None:
    """List work in progress; NotOffered from runtimes without crib's Node service."""
    async with session.connect() as connection:
        found = await node.under_way(connection)
    if options.output is not Format.TABLE:
        document([as_dict(one) for one in found], options.output)
        return
    table(_WORK_COLUMNS, [work_line(one) for one in found])


def work_line(one: Work) -> tuple[str, ...]:
    """One line of the table."""
    return (
        one.name,
        short_id(one.id) or "-",
        one.title or "-",
        f"{one.age_ns / 1e9:.1f}s",
        str(one.callers),
        one.request_id or "-",
        one.stage or "-",
    )


async def abandon(session: CliSession, options: AbandonOptions) -> None:
    """Give up on one object, and print which verbs that ended."""
    async with session.connect() as connection:
        for line in await node.abandon(connection, options.id, options.reason):
            tell(f"abandoned {line}")
    tell(f"{options.id} is being removed in the background")
