"""A container's bundle directory.

Config.json for the runtime, and a note of ours from which it can be torn down.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass

from crib.host.files import atomic_write, read_small, write_private
from crib.host.threads import OURS, Job
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from crib.model.sandbox import ProcessIdentity
from crib.wire import oci_runtime as oci

_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class BundleNote:
    """What was made for a container, written before it is made."""

    handler: str
    cgroup: str
    monitor: ProcessIdentity | None = None
    shared_pids: bool = False
    """It has no pid namespace of its own, so its first process's end does not end the others."""
    log_path: str = ""
    new_log: bool = False
    """There was no log of that name before."""
    poststop: bool = False
    """Its spec has hooks that the runtime's delete runs."""
    pod: str = ""
    """Id of its sandbox; empty in a note of an earlier crib."""
    restore: str = ""
    """`waits` for its start, which restores it from a checkpoint; `begun` when that has."""
    oom_kills: int = 0
    """Of the pod's counter, those that are none of its (`oom.OomKills`)."""


class Bundles:
    """Reads and writes bundles by container id, and remembers their notes: a bundle may be lost.

    All but `note`, `known` and `forget` blocks.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._notes: dict[ContainerId, BundleNote] = {}

    async def note(self, container: ContainerId) -> BundleNote | None:
        """What `read_note` says; read once."""
        known = self._notes.get(container)
        if known is not None:
            return known
        return await OURS.run(Job("reading a bundle's note", owner=container), self.read_note, container)

    def known(self, container: ContainerId) -> BundleNote | None:
        """What is remembered of it. Does not block."""
        return self._notes.get(container)

    def forget(self, container: ContainerId) -> None:
        """It is gone, or another handler's."""
        self._notes.pop(container, None)

    def pid_file(self, container: ContainerId) -> str:
        return f"{self._paths.container(container)}/pidfile"

    def make(self, container: ContainerId, note: BundleNote) -> str:
        """The bundle's directory with the note and an empty root."""
        bundle = self._paths.container(container)
        os.makedirs(bundle, mode=0o700, exist_ok=True)
        self.write_note(container, note)
        os.makedirs(self._paths.rootfs(container), mode=0o755, exist_ok=True)
        return bundle

    def write_note(self, container: ContainerId, note: BundleNote) -> None:
        monitor = [note.monitor.pid, note.monitor.start_time] if note.monitor else None
        document = {
            "handler": note.handler,
            "cgroup": note.cgroup,
            "pod": note.pod,
            "monitor": monitor,
            "sharedPids": note.shared_pids,
            "log": note.log_path,
            "newLog": note.new_log,
            "poststop": note.poststop,
            "oomKills": note.oom_kills,
            "restore": note.restore,
        }
        atomic_write(self._note_path(container), json.dumps(document).encode(), 0o600)
        self._notes[container] = note

    def read_note(self, container: ContainerId) -> BundleNote | None:
        """None when there is none, or it is torn; OSError when it cannot be read."""
        known = self._notes.get(container)
        if known is None and (known := self._read_note(container)) is not None:
            self._notes[container] = known
        return known

    def _read_note(self, container: ContainerId) -> BundleNote | None:
        try:
            document = json.loads(read_small(self._note_path(container)))
            monitor = document["monitor"]
            return BundleNote(
                handler=str(document["handler"]),
                cgroup=str(document["cgroup"]),
                pod=str(document.get("pod", "")),  # a note of an earlier crib lacks some
                monitor=ProcessIdentity(int(monitor[0]), int(monitor[1])) if monitor else None,
                shared_pids=bool(document["sharedPids"]),
                log_path=str(document.get("log", "")),
                new_log=bool(document.get("newLog", False)),
                poststop=bool(document.get("poststop", False)),
                oom_kills=int(document.get("oomKills", 0)),
                restore=str(document.get("restore", "")),
            )
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
            return None

    def write_spec(self, container: ContainerId, document: bytes) -> None:
        # Nobody reads the bundle before the runtime is started with it: no rename needed. Environments hold
        # secrets, and the bundles of pods with user namespaces can be entered by their root.
        write_private(self._spec_path(container), document)

    def read_spec(self, container: ContainerId) -> bytes:
        """What `write_spec` wrote; empty when it is gone."""
        with contextlib.suppress(FileNotFoundError):
            return read_small(self._spec_path(container), _LIMIT)
        return b""

    def read_process(self, container: ContainerId) -> oci.Process:
        """The `process` that the container was made with; OSError or ValueError when it cannot be read."""
        return oci.decode_process(read_small(self._spec_path(container), _LIMIT))

    def first_pid(self, container: ContainerId) -> int:
        """Pid of a container's first process if it runs, else 0.

        The pid file may be stale, so its cgroup is asked.
        """
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int(read_small(self.pid_file(container), 32))
            if container.encode() in read_small(f"/proc/{pid}/cgroup"):
                return pid
        return 0

    def _spec_path(self, container: ContainerId) -> str:
        return f"{self._paths.container(container)}/config.json"

    def _note_path(self, container: ContainerId) -> str:
        return f"{self._paths.container(container)}/crib.json"
