"""The bytes of containers' first processes: who carries them, from a container's create to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

from crib.backends.failures import trying
from crib.backends.shim.chunks import CHUNK_BYTES, Chunks
from crib.backends.shim.container_io import TaskServices
from crib.backends.shim.fifo_ends import (
    is_readable,
    make_fifos,
    open_input,
    open_input_again,
    open_output,
    open_output_again,
)
from crib.backends.shim.fifos import fifo_directory, stdio
from crib.backends.shim.inputs import Input
from crib.backends.shim.nouns import Stdio
from crib.backends.shim.outputs import TURNS, OpenFifo, Outputs
from crib.backends.streams.log_files import LogFile
from crib.host.streams import unread_bytes
from crib.host.threads import OURS, Job
from crib.model.container import ContainerRecord
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from crib.tasks.groups import all_of
from crib.tasks.keeper import HANDS

_log = logging.getLogger(__name__)


class FirstProcesses:
    """See ContainerIo."""

    def __init__(self, paths: Paths, services: TaskServices, directory: str) -> None:
        """`directory` is for what was read and is in no log yet."""
        self._paths = paths
        self._services = services
        self._chunks = Chunks(directory, TURNS)
        self._turns = asyncio.Semaphore(TURNS)
        self._outputs: dict[ContainerId, Outputs] = {}
        self._inputs: dict[ContainerId, Input] = {}

    def outputs(self, container: ContainerId) -> Outputs | None:
        """None of a container that is not known."""
        return self._outputs.get(container)

    def input(self, container: ContainerId) -> Input | None:
        """None where nothing is read any more."""
        return self._inputs.get(container)

    async def prepare(self, record: ContainerRecord) -> Stdio:
        paths = self._stdio(record)
        what = f"create of container {record.id}"
        with trying(what, field="log_path"):
            log = LogFile(record) if record.log_path else None
            if log is not None:
                await log.open()
        with trying(what):
            try:
                job = Job(f"{what}: its fifos", owner=record.id)
                fifos = await OURS.run(job, self._make, record.id, paths)
            except BaseException:
                if log is not None:
                    await log.close()
                raise
            self._begin(Outputs(record, log, self._chunks, self._turns), fifos)
            if paths.stdin:
                self._have_input(record.id, paths.stdin, open_input(paths.stdin))
        return paths

    def _make(self, container: ContainerId, paths: Stdio) -> list[OpenFifo]:
        os.makedirs(fifo_directory(self._paths, container), 0o700, exist_ok=True)
        make_fifos(paths)
        return _all_or_none(paths, open_output)

    async def adopt(self, record: ContainerRecord) -> None:
        if record.id in self._outputs:
            return
        paths = self._stdio(record)
        what = f"reading the output of container {record.id} again"
        with trying(what):
            fifos = await OURS.run(Job(what, owner=record.id), _all_or_none, paths, open_output_again)
            if record.id in self._outputs:  # two looked at it at the same time
                _close(fifos)
                return
            log = LogFile(record) if record.log_path else None
            outputs = Outputs(record, log, self._chunks, self._turns)
            resuming = HANDS.part("resumption of a log", self._resume(record, log, fifos), record.id)
            self._begin(outputs, fifos, resuming)
            if paths.stdin:
                self._adopt_input(record, paths.stdin)

    def _begin(
        self, outputs: Outputs, fifos: list[OpenFifo], before: asyncio.Task[None] | None = None
    ) -> None:
        self._outputs[outputs.record.id] = outputs
        outputs.begin(fifos, before)

    async def _resume(self, record: ContainerRecord, log: LogFile | None, fifos: list[OpenFifo]) -> None:
        """Finish what an earlier daemon has begun, however long the log takes."""
        if log is not None:
            await log.open_patiently()
        for chunk in self._chunks.left_of(record.id):
            if log is not None:
                await log.finish(chunk)
            self._chunks.give(chunk)
        ended = [fifo.stream for fifo in fifos if is_readable(fifo.fd) and not unread_bytes(fifo.fd)]
        if ended:
            words = (
                f"the container ended its {' and '.join(ended)} while cribd did not run:"
                f" up to {CHUNK_BYTES >> 10} KiB that it wrote last may be missing here"
            )
            _log.warning("container %s: %s", record.id, words)
            if log is not None:
                await log.note(words)

    def _adopt_input(self, record: ContainerRecord, path: str) -> None:
        fd = open_input_again(path)
        if fd is None:
            return
        known = self._have_input(record.id, path, fd)
        if record.config.stdin_once and known.was_used():
            known.end()

    def _have_input(self, container: ContainerId, path: str, fd: int) -> Input:
        known = self._inputs[container] = Input(container, path, fd, self._services)
        return known

    async def drain(self, container: ContainerId) -> None:
        if (found := self._outputs.get(container)) is not None:
            await found.drain()

    async def release(self, container: ContainerId) -> None:
        if (read := self._inputs.pop(container, None)) is not None:
            read.release()
        if (found := self._outputs.pop(container, None)) is not None:
            await found.release()
        for chunk in self._chunks.left_of(container):
            self._chunks.give(chunk)

    async def close(self) -> None:
        """The daemon ends: containers go on, and wait for the next one."""
        await all_of("output", [self.release(container) for container in tuple(self._outputs)])
        self._chunks.close()

    def _stdio(self, record: ContainerRecord) -> Stdio:
        config = record.config
        return stdio(self._paths, record.id, stdin=config.stdin, terminal=config.tty)


def _outputs(paths: Stdio) -> list[tuple[str, str]]:
    return [(stream, path) for stream, path in (("stdout", paths.stdout), ("stderr", paths.stderr)) if path]


def _all_or_none(paths: Stdio, open_one: Callable[[str], int]) -> list[OpenFifo]:
    """Those that have not ended yet, as far as anybody saw."""
    found: list[OpenFifo] = []
    try:
        for stream, path in _outputs(paths):
            with contextlib.suppress(FileNotFoundError):
                found.append(OpenFifo(stream, path, open_one(path)))
    except BaseException:
        _close(found)
        raise
    return found


def _close(fifos: list[OpenFifo]) -> None:
    for fifo in fifos:
        os.close(fifo.fd)
