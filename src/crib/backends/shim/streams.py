"""The ports of streams and logs: each by the part that knows how."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from crib.backends.failures import trying
from crib.backends.shim.attach import AttachedClients
from crib.backends.shim.exec import ShimCommands
from crib.backends.shim.outputs import Outputs
from crib.backends.shim.tools import ShimTools
from crib.backends.streams.dial import dial, dial_own_kernel
from crib.backends.streams.exec_starts import ExecStarts, users_of_root
from crib.backends.streams.log_rotation import rotate
from crib.backends.streams.logs import ContainerLogFiles
from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord
from crib.model.errors import WrongState
from crib.model.facts import RootfsFacts
from crib.model.sandbox import SandboxRecord
from crib.model.streams import AttachRequest, ExecProcess, PodAddress


class ShimStreams:
    """See ContainerStreams."""

    def __init__(self, tools: ShimTools) -> None:
        self._env = tools.environment
        starts = ExecStarts(tools.environment, tools.bundles, tools.signals, self._users)
        self._commands = ShimCommands(tools.environment, starts, tools.services)
        self._clients = AttachedClients(tools.io, tools.services)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        return await self._commands.open(record, process)

    async def _users(self, record: ContainerRecord) -> RootfsFacts:
        """For commands as somebody else than the container's first process."""
        return await users_of_root(self._env.paths, record)

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        return await self._clients.attach(record, wanted, self._env.settings)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        if self._env.facts.own_kernel and not record.config.host_network:
            return await dial_own_kernel(self._env.paths, self._env.facts, record, address)
        return await dial(self._env.paths, record, containers, address)


class ShimLogs(ContainerLogFiles):
    """See ContainerLogs."""

    def __init__(self, tools: ShimTools) -> None:
        self._io = tools.io

    async def reopen(self, record: ContainerRecord) -> None:
        if record.log_path:
            with trying(f"reopening the log of container {record.id}"):
                outputs = self._outputs(record)
                async with outputs.at_rest("reopening"):
                    if outputs.log is not None:
                        await outputs.log.reopen()

    async def rotate(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        if not record.log_path:
            return False
        with trying(f"rotating the log of container {record.id}"):
            outputs = self._outputs(record)
            return await rotate(record, partial(_renew, outputs), size_max, files)

    def _outputs(self, record: ContainerRecord) -> Outputs:
        outputs = self._io.outputs(record.id)
        if outputs is None:
            raise WrongState(f"the log of container {record.id}: nothing more is written to it")
        return outputs


async def _renew(outputs: Outputs) -> None:
    async with outputs.at_rest("renewing"):
        if outputs.log is not None:
            await outputs.log.renew()
