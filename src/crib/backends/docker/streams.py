"""The ports of streams and logs: each by the part that knows how."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from crib.backends.docker.attach import DockerClients
from crib.backends.docker.exec import DockerCommands
from crib.backends.docker.exits import DockerExits
from crib.backends.docker.logs import LogCopy
from crib.backends.docker.tools import DockerTools
from crib.backends.failures import trying
from crib.backends.streams.dial import dial
from crib.backends.streams.log_rotation import rotate
from crib.backends.streams.logs import ContainerLogFiles
from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord
from crib.model.errors import WrongState
from crib.model.sandbox import SandboxRecord
from crib.model.streams import AttachRequest, ExecProcess, PodAddress


class DockerStreams:
    """See ContainerStreams."""

    def __init__(self, tools: DockerTools, exits: DockerExits) -> None:
        self._env = tools.environment
        self._exits = exits
        self._commands = DockerCommands(tools, exits)
        self._clients = DockerClients(tools, exits)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        self._exits.open()
        return await self._commands.open(record, process)

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        self._exits.open()
        return await self._clients.attach(record, wanted)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        return await dial(self._env.paths, record, containers, address)


class DockerLogs(ContainerLogFiles):
    """See ContainerLogs."""

    def __init__(self, tools: DockerTools) -> None:
        self._logs = tools.logs

    async def reopen(self, record: ContainerRecord) -> None:
        if record.log_path:
            with trying(f"reopening the log of container {record.id}"):
                copy = self._copy(record)
                async with copy.at_rest("reopening"):
                    await copy.log.reopen()

    async def rotate(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        if not record.log_path:
            return False
        with trying(f"rotating the log of container {record.id}"):
            return await rotate(record, partial(_renew, self._copy(record)), size_max, files)

    def _copy(self, record: ContainerRecord) -> LogCopy:
        copy = self._logs.of(record.id)
        if copy is None:
            raise WrongState(f"the log of container {record.id}: nothing more is written to it")
        return copy


async def _renew(copy: LogCopy) -> None:
    async with copy.at_rest("renewing"):
        await copy.log.renew()
