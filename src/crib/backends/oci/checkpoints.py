"""The port `Checkpoints` by CRIU, which the OCI runtime starts.

The container is frozen by its cgroup meanwhile, so that its memory and its files are of the same moment.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping

from crib.backends.bundle.bundles import BundleNote
from crib.backends.failures import LONGEST_WORDS, failure, foreign, trying
from crib.backends.oci.checkpoint_files import (
    CaptureDirectory,
    draft_of,
    plan_archive,
    remove_draft,
    rename_synced,
    write_archive,
    write_diff,
)
from crib.backends.oci.parts import HandlerParts
from crib.backends.runtime_words import runtime_words
from crib.host.freezer import Freezer
from crib.host.processes import SpawnOptions, spawn
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.errors import Broken, InvalidRequest, TimedOut, WrongState
from crib.model.ids import ContainerId
from crib.ports.checkpoints import SUFFIX, Packing
from crib.wire import checkpoint_archive as wire

FREEZE_SECONDS = 10.0
"""For all processes of a container to stop."""
_SHOWN = 5
_OF_THE_LOCATION = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)
)
"""What opening or naming a file says where its path is to blame."""


class OciCheckpoints:
    """See Checkpoints."""

    def __init__(self, parts: HandlerParts) -> None:
        self._env = parts.environment
        self._paths = parts.environment.paths
        self._bundles = parts.bundles
        self._layers = parts.layers
        self.inspect = parts.restores.inspect
        self._freezer = Freezer(parts.environment.cgroups.layout)

    async def pause(self, record: ContainerRecord) -> None:
        what = f"pausing container {record.id}"
        note = await self._note(what, record)
        job = Job(what, record.id, FREEZE_SECONDS + 1)
        try:
            with trying(what):
                await OURS.run(job, self._freezer.freeze, note.cgroup, FREEZE_SECONDS)
        except BaseException:
            await self.resume(record)
            raise

    async def resume(self, record: ContainerRecord) -> None:
        note = await self._bundles.note(record.id)
        if note is not None:
            what = f"container {record.id} goes on"
            with trying(what):
                await OURS.run(Job(what, record.id), self._freezer.thaw, note.cgroup)

    async def capture(self, record: ContainerRecord) -> None:
        what, capture = f"checkpoint of container {record.id}", self._capture(record.id)
        with trying(what):
            layers = await self._layers.acquire(record.layers)
            lock = await OURS.run(self._ours(record.id), capture.make)
            try:
                await self._dump(what, record.id, capture, lock)
            finally:
                os.close(lock)
            upper = f"{self._paths.writable_layer(record.id)}/upper"
            try:
                await OURS.run(self._ours(record.id), write_diff, capture, upper, layers)
            except (EOFError, ValueError) as error:
                raise Broken(f"{what}: its writable layer cannot be read: {error}") from error

    async def _dump(self, what: str, container: ContainerId, capture: CaptureDirectory, lock: int) -> None:
        """Not by `run`, which kills the program of a caller that is cancelled: a container is damaged when
        CRIU dies within it. Who comes later waits for the lock, which the program has open to its end.
        """
        limit = self._env.settings.verb_timeout
        options = SpawnOptions(
            pass_fds=(lock,),
            env={"PATH": self._env.criu.search_path, "LC_ALL": "C.UTF-8"},
            new_session=True,
            owner=container,
        )
        program = spawn(self._env.runtime.checkpoint(container, capture.files), options)
        try:
            code = await program.wait(limit)
        except TimeoutError:
            program.kill()
            await program.wait()
            raise Broken(f"{what}: criu did not end within {limit:.0f} s, and was killed") from None
        if code != 0:
            words = await OURS.run(self._ours(container), capture.words)
            said = runtime_words(words)[-LONGEST_WORDS:] or "it said nothing"
            raise WrongState(f"{what}: {said} (exit code {code} of {self._env.runtime.program})")

    async def pack(self, packing: Packing) -> None:
        record, location = packing.record, packing.location
        what = f"writing the checkpoint {location}"
        note = await self._note(what, record)
        with trying(what):
            spec = await OURS.run(self._ours(record.id), self._bundles.read_spec, record.id)
        documents = [
            (wire.CONFIG, wire.encode(self._config(packing))),
            (wire.SPEC, spec),
            (wire.STATUS, wire.encode(_status(record))),
        ]
        at, capture = packing.at // 1_000_000_000, self._capture(record.id)

        def write() -> None:
            plan = plan_archive(capture, documents, note.log_path, at)
            write_archive(plan, draft_of(location, record.id), packing.seconds)

        await self._at_location(Job(what, os.path.dirname(location), packing.seconds + 1), write)

    async def publish(self, record: ContainerRecord, location: str) -> None:
        job = Job(f"naming the checkpoint {location}", os.path.dirname(location))
        await self._at_location(job, rename_synced, draft_of(location, record.id), location)

    async def withdraw(self, location: str) -> None:
        job = Job(f"removing the checkpoint {location}", os.path.dirname(location))
        await self._at_location(job, remove_draft, location)

    async def check_empty(self, directory: str) -> None:
        with trying(f"looking into {directory}", field="output_path"):
            if names := await foreign(Job(f"looking into {directory}", directory), os.listdir, directory):
                text = f"{directory} is not empty: it has {', '.join(sorted(names)[:_SHOWN])}"
                raise InvalidRequest(text, field="output_path")

    async def archives(self, directory: str) -> Mapping[str, str]:
        with trying(f"looking into {directory}", field="checkpoint_path"):
            names = await foreign(Job(f"looking into {directory}", directory), os.listdir, directory)
        if other := [name for name in sorted(names) if not name.endswith(SUFFIX)]:
            text = f"{directory} is no checkpoint of a pod: it has {', '.join(other[:_SHOWN])}"
            raise InvalidRequest(text, field="checkpoint_path")
        return {name.removesuffix(SUFFIX): f"{directory}/{name}" for name in names}

    @staticmethod
    async def _at_location(job: Job, work: Callable[..., None], *args: object) -> None:
        try:
            await foreign(job, work, *args)
        except TimeoutError as error:
            raise TimedOut(f"{job.what}: {error}") from error
        except OSError as error:
            field = "location" if error.errno in _OF_THE_LOCATION else ""
            raise failure(job.what, error, field=field) from error

    def _config(self, packing: Packing) -> wire.CheckpointConfig:
        record = packing.record
        return wire.CheckpointConfig(
            id=record.id,
            name=record.config.name,
            image=record.image_id,
            image_ref=record.image_ref,
            image_name=record.config.user_specified_image or record.config.image,
            runtime=self._env.facts.name,
            created_time=wire.timestamp(record.created_at),
            checkpointed_time=wire.timestamp(packing.at),
        )

    async def discard(self, record: ContainerRecord, location: str) -> None:
        what = f"ending the checkpoint of container {record.id}"
        capture, limit = self._capture(record.id), self._env.settings.verb_timeout
        job = Job(what, record.id, limit + 1)
        with trying(what):
            await OURS.run(job, capture.await_end, limit)
            await self.resume(record)
            await OURS.run(self._ours(record.id), capture.remove)
            await foreign(Job(what, location, limit), remove_draft, draft_of(location, record.id))

    async def _note(self, what: str, record: ContainerRecord) -> BundleNote:
        note = await self._bundles.note(record.id)
        if note is None:
            raise Broken(f"{what}: its bundle is lost")
        return note

    def _capture(self, container: ContainerId) -> CaptureDirectory:
        return CaptureDirectory(self._paths.checkpoint(container))

    def _ours(self, container: ContainerId) -> Job:
        return Job(f"the checkpoint of container {container}", container, self._env.settings.verb_timeout)


def _status(record: ContainerRecord) -> wire.CheckpointStatus:
    return wire.CheckpointStatus(
        pid=record.process.pid if record.process else 0,
        created_at=record.created_at,
        started_at=record.started_at,
    )
