"""Who changed what: a line of JSON for each call that changes something, where the administrator wants that.

Lines wait in a queue for a thread of their own, as the disk may hang. What finds the queue full, or cannot be
written, is dropped, and a line in its place says how many there were.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from crib.host.peers import AcceptedConnections
from crib.host.threads import OURS, Job, Overdue
from crib.model.caller import AuditEntry, Peer
from crib.model.errors import Broken
from crib.model.paths import Paths
from crib.model.settings import AuditSettings, Settings
from crib.observe.rotated_file import RotatedFile

_log = logging.getLogger(__name__)

QUEUE_LIMIT = 4096
"""Entries that wait for the disk."""
LOOK_SECONDS = 1.0
"""For finding out who is connected; a call whose caller is not known by then goes on without."""
PEERS_LIMIT = 16
"""Peers that one entry names."""
LAST_SECONDS = 2.0
"""For writing what is left when the daemon ends."""


class Audit:
    """Of one daemon, which listens on `socket`."""

    def __init__(self, settings: AuditSettings, path: str, socket: str) -> None:
        """`path`: the file. Broken when nothing can be written there."""
        self._path = path
        self._file = RotatedFile(path, settings.size_max, settings.files)
        try:
            self._file.open()
        except OSError as error:
            raise Broken(f"audit.file: {path}: {error.strerror}") from error
        self._connections = AcceptedConnections(socket)
        self._lock = asyncio.Lock()
        self._begun = self._done = 0
        self._found: tuple[Peer, ...] = ()
        self._queue: deque[AuditEntry] = deque()
        self._refused = self._unwritten = self._told = 0
        self._fails = self._ends = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._write, name="crib-audit", daemon=True)
        self._thread.start()

    async def peers(self) -> tuple[Peer, ...]:
        """Who is connected at some moment between this call and its answer; none where that takes too long.

        One look serves all who asked before it began.
        """
        wanted = self._begun + 1
        try:
            async with asyncio.timeout(LOOK_SECONDS), self._lock:
                if self._done < wanted:
                    self._begun += 1
                    number = self._begun
                    job = Job("looking who is connected", limit=LOOK_SECONDS)
                    self._found = await OURS.run(job, self._look)
                    self._done = number
                return self._found
        except (TimeoutError, Overdue) as error:
            _log.warning("audit: looking who is connected: %s", error or f"takes more than {LOOK_SECONDS} s")
            return ()

    def put(self, entry: AuditEntry) -> None:
        """To be written soon."""
        if len(self._queue) >= QUEUE_LIMIT:
            self._refused += 1
            return
        self._queue.append(entry)
        self._wake.set()

    async def close(self) -> None:
        """Write what is left, as far as the disk takes it."""
        self._ends = True
        self._wake.set()
        try:
            await OURS.run(Job("writing the end of the audit", limit=LAST_SECONDS), self._thread.join)
        except Overdue:
            _log.error("audit: %s: %d entries were not written", self._path, len(self._queue))

    def _look(self) -> tuple[Peer, ...]:
        """Each process once, without ourselves: the self-test changes nothing."""
        found = {
            one.pid or -number: Peer(one.pid, one.uid, one.executable)
            for number, one in enumerate(self._connections.look(), 1)
            if one.pid != os.getpid()
        }
        return tuple(found.values())

    def _write(self) -> None:
        while not (self._ends and not self._queue):
            self._wake.wait()
            self._wake.clear()
            self._append([self._queue.popleft() for _ in range(len(self._queue))])
        self._file.close()

    def _append(self, entries: list[AuditEntry]) -> None:
        missing = self._refused + self._unwritten - self._told
        lines = [encode(entry) for entry in entries]
        if not (lines or missing):
            return
        try:
            if missing:
                self._file.append([_line({"time": _shown(time.time_ns()), "dropped": missing})])
                self._told += missing
                _log.error("audit: %s: %d entries were dropped", self._path, missing)
            self._file.append(lines)
            self._fails = False
        except OSError as error:
            self._unwritten += len(lines) - self._file.written
            if not self._fails:
                _log.error("audit: %s: %s; entries are lost until it can be written", self._path, error)
            self._fails = True


class Auditing:
    """The audit that the settings ask for, if any; others may ask for another one."""

    def __init__(self, settings: Settings) -> None:
        """Broken when nothing can be written where the settings say."""
        self.audit = _opened(settings)
        self.told: Callable[[Audit | None], None] = lambda _: None
        """Called with another one, before the old one is closed."""
        self._settings = settings

    async def make_ready(self, settings: Settings) -> Callable[[bool], Awaitable[None]]:
        """Open what other settings ask for; Broken. The answer is to be called with whether they hold."""
        if settings.audit == self._settings.audit:
            return _nothing
        job = Job(f"opening the audit {_place(settings)}", limit=LAST_SECONDS)
        try:
            audit = await OURS.run(job, _opened, settings)
        except Overdue as error:
            raise Broken(f"audit.file: {error}") from error

        async def finish(holds: bool) -> None:
            if holds:
                self._settings = settings
                self.audit, old = audit, self.audit
                self.told(audit)
            else:
                old = audit
            if old is not None:
                await old.close()

        return finish

    async def close(self) -> None:
        if self.audit is not None:
            await self.audit.close()


def _opened(settings: Settings) -> Audit | None:
    return Audit(settings.audit, _place(settings), settings.socket_path) if settings.audit.enabled else None


def _place(settings: Settings) -> str:
    return settings.audit.file or Paths(settings.data, settings.state).audit


async def _nothing(holds: bool) -> None:
    """They ask for what there is."""


def encode(entry: AuditEntry) -> bytes:
    """One line. `caller.peer` when it can be nobody else, `caller.one_of` when it is one of several."""
    caller: dict[str, Any] = {"agent": entry.caller.agent}
    peers = [{"pid": one.pid, "uid": one.uid, "executable": one.executable} for one in entry.caller.peers]
    if len(peers) == 1:
        caller["peer"] = peers[0]
    elif peers:
        caller["one_of"] = peers[:PEERS_LIMIT]
        caller["peers"] = len(peers)
    content: dict[str, Any] = {
        "time": _shown(entry.at),
        "duration_ms": round(entry.duration / 1e6, 3),
        "request": entry.caller.request,
        "trace": entry.trace,
        "call": entry.verb,
        "caller": caller,
        "object": entry.object.known(),
        "code": entry.code,
        "error": entry.error,
    }
    return _line({key: value for key, value in content.items() if value or key == "duration_ms"})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _shown(at: int) -> str:
    return datetime.fromtimestamp(at / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
