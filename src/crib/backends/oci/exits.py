"""Exits as conmon files them: those that are there, then each new one.

A monitor that dies before it could file one leaves a container that nobody watches, whose log and exit code
are lost. It is ended then, and an exit that says so is filed in the monitor's stead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

from crib.backends.oci.bundles import BundleNote, Bundles
from crib.backends.oci.deaths import Deaths
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import refused_program, trying
from crib.host.cgroup_stats import StatsReader
from crib.host.files import atomic_write
from crib.host.inotify import WRITTEN, DirectoryWatcher
from crib.host.pidfds import signal_process
from crib.model.container import Exit
from crib.model.ids import ContainerId, is_id
from crib.model.sandbox import ProcessIdentity
from crib.wire.conmon import decode_exit

_LOST = b"lost"
"""Our own word in an exit file: the code is not known."""
LOST_CODE = 255
_REFUSED_CODES = (1, 255)
"""What crun and runc end with when execve(2) of the container's program fails."""
_LONGEST_WORDS = 4096
_KILL_ROUNDS = 10


class Exits:
    """Reads exit files and says whether memory was the cause."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles, stats: StatsReader) -> None:
        self._env = environment
        self._bundles = bundles
        self._stats = stats
        self._deaths = Deaths(self._monitor_ended)

    def watch(self, container: ContainerId, monitor: ProcessIdentity) -> None:
        """Tell of this container's exit even if its monitor dies."""
        self._deaths.watch(container, monitor)

    def read(self, container: ContainerId) -> Exit | None:
        """The exit on file for a container; None when there is none (yet)."""
        path = self._env.paths.exit_file(container)
        try:
            with open(path, "rb") as file:
                data = file.read(64)
                at = os.fstat(file.fileno()).st_mtime_ns
            if data == _LOST:
                return Exit(container, LOST_CODE, at, lost=True)
            code = decode_exit(data)
        except (FileNotFoundError, ValueError):
            return None
        note = self._bundles.read_note(container)
        words = ""
        if note is not None and note.log_path and code in _REFUSED_CODES:
            words = refused_program(_beginning(note.log_path))
        return Exit(container, code, at, oom_killed=self._oom_killed(container, note), never_ran=words)

    async def stream(self) -> AsyncIterator[Exit]:
        """See Handler.exits. Only of containers that are this handler's to look after."""
        with trying("watching exit files"), DirectoryWatcher([self._env.paths.exits], WRITTEN) as watcher:
            try:
                self._watch_running()
                for exit_ in self._on_file():
                    yield exit_
                async for event in watcher:
                    if event.lost:
                        # Telling an exit twice is harmless, missing one is not.
                        for exit_ in self._on_file():
                            yield exit_
                    elif (found := self._ours(event.name)) is not None:
                        yield found
            finally:
                self._deaths.close()

    def _watch_running(self) -> None:
        for name in os.listdir(self._env.paths.containers):
            container = ContainerId(name)
            note = self._note(name)
            if note is not None and note.monitor is not None and self.read(container) is None:
                self._deaths.watch(container, note.monitor)

    def _on_file(self) -> list[Exit]:
        found = [self._ours(name) for name in sorted(os.listdir(self._env.paths.exits))]
        return [exit_ for exit_ in found if exit_ is not None]

    def _ours(self, name: str) -> Exit | None:
        note = self._note(name)
        if note is None:
            # Whose it is cannot be told then: every handler tells, as a torn note must not hide an exit.
            return self.read(ContainerId(name)) if self._is_torn(name) else None
        if note.shared_pids:
            # Nobody else ends what its first process left behind in a pid namespace that goes on.
            self._kill_all(note)
        return self.read(ContainerId(name))

    def _note(self, name: str) -> BundleNote | None:
        note = self._bundles.read_note(ContainerId(name)) if is_id(name) else None
        return note if note is not None and self._env.owns(note.handler) else None

    def _is_torn(self, name: str) -> bool:
        container = ContainerId(name)
        bundle_is_there = is_id(name) and os.path.isdir(self._env.paths.container(container))
        return bundle_is_there and self._bundles.read_note(container) is None

    def _monitor_ended(self, container: ContainerId) -> None:
        note = self._note(container)
        if note is None or os.path.exists(self._env.paths.exit_file(container)):
            return  # deleted meanwhile, or filed as it should be
        self._kill_all(note)
        atomic_write(self._env.paths.exit_file(container), _LOST, 0o600)

    def _kill_all(self, note: BundleNote) -> None:
        """Without waiting: whatever survives all rounds, by forking, does not survive the delete."""
        for _round in range(_KILL_ROUNDS):
            pids = self._env.cgroups.pids(note.cgroup)
            for pid in pids:
                signal_process(pid, signal.SIGKILL)
            if not pids:
                return

    def _oom_killed(self, container: ContainerId, note: BundleNote | None) -> bool:
        if os.path.exists(f"{self._env.paths.container(container)}/oom"):
            return True
        return note is not None and self._stats.oom_kills(note.cgroup) > 0


def _beginning(path: str) -> bytes:
    """A log that may be such words and nothing else; empty for a longer one."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LONGEST_WORDS + 1)
    except OSError:
        return b""
    return data if len(data) <= _LONGEST_WORDS else b""
