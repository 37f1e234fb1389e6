"""`crib config` and `crib reload`.

What needs no daemon is done by the daemon's own code, in a process of its own: `python -m crib.config`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crib.cli.forms import is_table
from crib.cli.output import as_dict, clean, document, table, tell
from crib.cli.session import CommandError
from crib.client import config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.config_options import ConfigDiffOptions, ConfigShowOptions, ReloadOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import ConfigChange

_RESTART, _RELOAD = "restart", "reload"


@dataclass(frozen=True, slots=True)
class _Row:
    """A key with values as JSON."""

    key: str
    value: str
    default: str
    origin: str
    takes: str
    """How another value comes to hold: `reload` or `restart`."""


@dataclass(frozen=True, slots=True)
class _Settings:
    rows: Sequence[_Row]
    files: Sequence[str]
    notes: Sequence[str]
    """What people should know of it, in lines."""


async def reload_(session: CliSession, options: ReloadOptions) -> int:
    """Reload; 1 if it was refused."""
    async with session.connect() as connection:
        done = await config.reload(connection)
    if not is_table(options.output):
        document(as_dict(done), options.output)
        return 1 if done.faults else 0
    if done.faults:
        for fault in done.faults:
            print(clean(fault), file=sys.stderr)
        count = f"{len(done.faults)} fault{'s' if len(done.faults) > 1 else ''}"
        raise CommandError(f"nothing was changed: the configuration has {count}")
    for change in done.changed:
        tell(f"changed        {_change(change)}")
    for change in done.waiting:
        tell(f"needs restart  {_change(change)}")
    if not (done.changed or done.waiting):
        tell("nothing has changed")
    return 0


async def show(session: CliSession, options: ConfigShowOptions) -> None:
    """Print keys, values and origins."""
    found = await (_of_file(options.file) if options.file else _of_daemon(session))
    wanted = [name.strip(".") for name in options.keys or ()]
    rows = [
        row
        for row in found.rows
        if (row.origin or not options.changed)
        and (not wanted or any(row.key == name or row.key.startswith(f"{name}.") for name in wanted))
    ]
    if wanted and not rows and not options.changed:
        raise CommandError(f"there is no key {', '.join(wanted)}")
    if is_table(options.output):
        table(("KEY", "VALUE", "ORIGIN"), [(row.key, row.value, row.origin or "default") for row in rows])
        for note in found.notes:
            tell(note)
        return
    keys = [
        {
            "key": row.key,
            "value": json.loads(row.value),
            "default": json.loads(row.default or "null"),
            "origin": row.origin or "default",
            "takes": row.takes,
        }
        for row in rows
    ]
    document({"files": list(found.files), "notes": list(found.notes), "keys": keys}, options.output)


async def diff(session: CliSession, options: ConfigDiffOptions) -> int:
    """Print what differs; 1 if anything does."""
    if options.defaults:
        found = await (_of_file(options.file) if options.file else _of_daemon(session))
        rows = [
            (row.key, row.default or "not set", row.value, row.origin)
            for row in found.rows
            if row.value not in (row.default, "{}")
        ]
        columns: tuple[str, ...] = ("KEY", "DEFAULT", "VALUE", "ORIGIN")
    else:
        daemon = await _of_daemon(session)
        there = await _of_file(options.file or next(iter(daemon.files), "/etc/crib/config.toml"))
        before = {row.key: row for row in daemon.rows if row.value != "{}"}
        after = {row.key: row for row in there.rows if row.value != "{}"}
        rows = []
        for key in dict.fromkeys((*before, *after)):
            old, new = before.get(key), after.get(key)
            if old is None or new is None or old.value != new.value:
                texts = (old.value if old else "not set", new.value if new else "not set")
                rows.append((key, *texts, (new or old or daemon.rows[0]).takes))
        columns = ("KEY", "RUNNING", "FILES", "TAKES")
    if is_table(options.output):
        if rows:
            table(columns, rows)
        else:
            tell("no difference")
    else:
        names = [column.lower() for column in columns]
        document([dict(zip(names, row, strict=True)) for row in rows], options.output)
    return 1 if rows else 0


def check_file(file: str) -> int:
    """Tell all that is wrong with a file; the exit code. Kinds of handlers and networks only cribd knows."""
    done = subprocess.run(
        _command("check", "--file", file),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode
    daemon = (sys.executable, "-m", "crib.daemon", "--config", file, "--check-config")
    return subprocess.run(daemon, check=False, stdin=subprocess.DEVNULL).returncode


def run_program(*arguments: str) -> int:
    """A job that needs no daemon, with our own output; its exit code."""
    return subprocess.run(_command(*arguments), check=False, stdin=subprocess.DEVNULL).returncode


async def _of_daemon(session: CliSession) -> _Settings:
    async with session.connect() as connection:
        shown = await config.show(connection)
    rows = [
        _Row(one.key, one.value, one.default, one.origin, _RESTART if one.needs_restart else _RELOAD)
        for one in shown.keys
    ]
    notes = [f"needs restart: {_change(change)}" for change in shown.waiting]
    notes += [f"deprecated: {text}" for text in shown.deprecated]
    notes += [f"the last reload was refused: {text}" for text in shown.faults]
    return _Settings(rows, shown.files, notes)


async def _of_file(file: str) -> _Settings:
    done = await asyncio.to_thread(
        subprocess.run, _command("show", "--file", file), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandError(done.stderr.strip() or f"{file} could not be read")
    shown: dict[str, Any] = json.loads(done.stdout)
    rows = [
        _Row(one["key"], one["value"], one["default"], one["origin"], _RELOAD if one["is_live"] else _RESTART)
        for one in shown["keys"]
    ]
    return _Settings(rows, shown["files"], [f"deprecated: {text}" for text in shown["deprecated"]])


def _command(*arguments: str) -> Sequence[str]:
    return (sys.executable, "-m", "crib.config", *arguments)


def _change(change: ConfigChange) -> str:
    return f"{change.key}: {change.before or 'not set'} → {change.after or 'not set'}"
