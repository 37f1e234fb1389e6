"""Starts of commands, with any kind of handler: what a command is run with, and who waits until it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from crib.backends.bundle.bundles import BundleNote, Bundles
from crib.backends.bundle.rootfs import read_facts
from crib.backends.environment import HandlerEnvironment
from crib.backends.failures import trying
from crib.backends.pods.signals import Signals
from crib.backends.streams.exec_sessions import ExecSession, undo_opening
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, WrongState
from crib.model.facts import RootfsFacts
from crib.model.paths import Paths
from crib.model.streams import ExecProcess
from crib.ocispec.process import NO_USERS, exec_process, oom_score_adj
from crib.tasks.keeper import HANDS
from crib.wire import oci_runtime as oci

_OPEN_TIME = 0.5
"""Seconds that a command has to start when nobody waits for it any more; then it is killed."""


class ExecStarts:
    """Of one handler."""

    def __init__(
        self,
        environment: HandlerEnvironment,
        bundles: Bundles,
        signals: Signals,
        users: Callable[[ContainerRecord], Awaitable[RootfsFacts]] | None = None,
    ) -> None:
        """`users` reads those of a container's root, where this host cannot."""
        self._env = environment
        self._users_of = users
        self._bundles = bundles
        self._signals = signals

    async def run(
        self,
        record: ContainerRecord,
        wanted: ExecProcess,
        start: Callable[[BundleNote, RootfsFacts], Coroutine[Any, Any, ExecSession]],
    ) -> ExecSession:
        """See ContainerStreams.exec. Who is cancelled meanwhile leaves nothing that runs.

        `start` gets the note of the container's bundle, and its users if the command runs as another one.
        """
        what = f"exec in container {record.id}"
        with trying(what):
            users = await self._users(record, wanted)
            starting = start(self._note(what, record), users)
        # A part, as it continues when its caller is cancelled.
        opening = HANDS.part("start of a command", starting, record.id)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.shield(HANDS.part("end of a command", undo_opening(opening, _OPEN_TIME), record.id))
            raise

    def score(self, record: ContainerRecord) -> int | None:
        """Its OOM score. An update may have changed it since the container was made."""
        return oom_score_adj(record.resources.oom_score_adj, self._env.host)

    def process(
        self, what: str, record: ContainerRecord, wanted: ExecProcess, users: RootfsFacts
    ) -> oci.Process:
        """What the runtime is told: the container's first process, with what the command has of its own."""
        try:
            first = self._bundles.read_process(record.id)
        except (OSError, ValueError) as error:
            raise Broken(f"{what}: the container's config.json cannot be read: {error}") from error
        first = msgspec.structs.replace(first, oom_score_adj=self.score(record))
        return exec_process(first, wanted, users)

    async def _users(self, record: ContainerRecord, wanted: ExecProcess) -> RootfsFacts:
        """From the container's own layers; a volume over them could be on a disk that hangs."""
        if not wanted.user:
            return NO_USERS
        if self._users_of is not None:
            return await self._users_of(record)
        return await users_of_root(self._env.paths, record)

    def _note(self, what: str, record: ContainerRecord) -> BundleNote:
        note = self._bundles.read_note(record.id)
        if note is None:
            raise WrongState(f"{what}: it has no bundle")
        if self._signals.is_frozen(note.cgroup):
            # A process that joins a frozen group stops there, and the call with it.
            raise WrongState(f"{what}: the container is paused")
        return note


async def users_of_root(paths: Paths, record: ContainerRecord) -> RootfsFacts:
    """As this host sees the container's root. CribError, OSError."""
    job = Job(f"reading the users of container {record.id}", record.id)
    return await OURS.run(job, read_facts, paths.rootfs(record.id))
