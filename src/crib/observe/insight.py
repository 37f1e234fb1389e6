"""A look into the daemon, by a call or by SIGUSR1, and rules for its log."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from crib.engine.node import Node
from crib.host.threads import OURS, Job
from crib.model.log_rule import DumpSection, LogRule
from crib.observe import dump
from crib.observe.lag import LoopWatch
from crib.observe.log_rules import RULES, shown

_log = logging.getLogger(__name__)

DUMP_SECONDS = 30.0
"""For a dump that a call asks for."""
DUMPS_KEPT = 5
"""Files of dumps; the oldest goes first."""
_CALM = 50
"""Milliseconds without another signal after which a dump begins."""


class LoopInsight:
    """Of the loop on which it is made, and of the node that it is given."""

    def __init__(self, watch: LoopWatch, directory: str) -> None:
        """`directory`: for dumps that a signal asks for."""
        self._watch = watch
        self._directory = directory
        self._began = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._node: Node | None = None

    @contextlib.contextmanager
    def ready(self, node: Node) -> Iterator[None]:
        """While this lasts SIGUSR1 makes a dump; to be entered on the loop."""
        self._loop, self._node = asyncio.get_running_loop(), node
        RULES.describe = node.describe
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        # Python runs its own handlers on the main thread, between two steps of it: a loop that hangs in the
        # kernel never comes to that. faulthandler's writes from within the signal, whatever the thread is at.
        faulthandler.register(signal.SIGUSR1, sender, all_threads=False)
        thread = threading.Thread(target=self._serve, args=(receiver,), name="crib-dump", daemon=True)
        thread.start()
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a late one is not the end
            os.close(sender)  # the thread ends
            RULES.reset()

    def log(self, rule: LogRule) -> None:
        RULES.follow(rule)

    def reset_log(self) -> None:
        RULES.reset()

    def log_rules(self) -> Sequence[LogRule]:
        return RULES()

    async def dump(self) -> Sequence[DumpSection]:
        job = Job("a dump of the daemon", "dump", DUMP_SECONDS)
        return await OURS.run(job, lambda: tuple(self._sections()))

    def _sections(self) -> Iterator[DumpSection]:
        parts: list[dump.Part] = [
            ("daemon", self._daemon),
            ("verbs", self._verbs),
            ("locks", self._locks),
            ("node plugins", self._plugins),
            ("tasks", lambda: dump.tasks(self._loop) if self._loop is not None else ()),
            ("threads", dump.threads),
            ("descriptors", dump.descriptors),
            ("memory", dump.memory),
            ("log", dump.log_lines),
        ]
        for name, lines in parts:
            yield dump.section(name, _late(lines))

    def _daemon(self) -> Iterator[str]:
        lag = self._watch.lag
        yield f"up for {time.monotonic() - self._began:.0f} s"
        times = "once" if lag.stalls == 1 else f"{lag.stalls} times"
        yield f"loop blocked {times}, {lag.seconds:.1f} s, at most {lag.longest:.1f} s"
        if (since := self._watch.blocked_for) > 0:
            yield f"loop at the same work for {since:.3f} s"
        yield from (shown(rule) for rule in RULES())

    def _verbs(self) -> Iterator[str]:
        assert self._node is not None
        for one in self._node.abandon.under_way():
            about = " ".join(filter(None, (one.name, one.object, one.title)))
            call = f", request {one.request}" if one.request else ""
            yield f"{about}: {one.seconds:.1f} s, {one.callers} callers{call}: {one.stage or '-'}"

    def _locks(self) -> Iterator[str]:
        assert self._node is not None
        for one in self._node.held_locks():
            yield f"{one.key}: held for {one.seconds:.1f} s by {one.holder}; {one.waiters} wait"
        load = self._node.admission.load
        yield (
            f"places for verbs: {load.places}; {load.making} making, {load.ending} ending, "
            f"{load.overdue} overdue, {load.queued} wait"
        )
        yield from dump.locks_in_memory()

    def _plugins(self) -> Iterator[str]:
        assert self._node is not None
        for one in self._node.plugin_statuses():
            since = (time.time_ns() - one.since) / 1e9
            asked = f"{one.calls} calls, {one.failures} failed, {one.seconds:.3f} s"
            yield f"{one.name or '?'} (pid {one.pid}): {one.state} for {since:.0f} s; {asked}"
            yield from (f"    {text}" for text in (", ".join(one.events), one.problem) if text)

    def _serve(self, receiver: int) -> None:
        poll = select.poll()
        poll.register(receiver, select.POLLIN)
        while os.read(receiver, 1 << 16):
            while poll.poll(_CALM):
                if not os.read(receiver, 1 << 16):
                    break
            try:
                path = self._write(dump.as_text(self._sections()))
            except OSError as error:
                _log.error("a dump cannot be written below %s: %s", self._directory, error)
            else:
                _log.warning("SIGUSR1: what the daemon is at is in %s", path)
        os.close(receiver)

    def _write(self, text: str) -> str:
        name = f"dump-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.monotonic_ns()}.txt"
        path = os.path.join(self._directory, name)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(file, "w", encoding="utf-8", errors="replace") as output:
            output.write(text)
        dumps = sorted(one for one in os.listdir(self._directory) if one.startswith("dump-"))
        for old in dumps[:-DUMPS_KEPT]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, old))
        return path


def _late(lines: Callable[[], Iterable[str]]) -> Iterator[str]:
    """So that what fails at once fails where it is caught too."""
    yield from lines()
