"""The ports `ContainerStreams` and `ContainerLogs`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from crib.backends.failures import trying
from crib.backends.shim.attach import Attachments
from crib.backends.shim.exits import Exits
from crib.backends.shim.tools import ShimTools
from crib.backends.streams.dial import dial
from crib.backends.streams.logs import odd_logs, sizes_of_logs
from crib.ends import ByteStream, Session
from crib.host.threads import FOREIGN
from crib.model.container import ContainerRecord
from crib.model.errors import NotBuilt
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.model.streams import AttachRequest, ExecProcess, PodAddress


class ShimStreams:
    """See ContainerStreams."""

    def __init__(self, tools: ShimTools, exits: Exits) -> None:
        self._env = tools.environment
        self._attachments = Attachments(tools.io, tools.services)

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        raise NotBuilt("exec")

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        return await self._attachments.attach(record, wanted, self._env.settings)

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        return await dial(self._env.paths, record, containers, address)


class ShimLogs:
    """See ContainerLogs."""

    def __init__(self, tools: ShimTools) -> None:
        self._io = tools.io

    async def reopen(self, record: ContainerRecord) -> None:
        raise NotBuilt("reopen")

    async def rotate(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        raise NotBuilt("rotate")

    async def sizes(self, records: Sequence[ContainerRecord]) -> Mapping[ContainerId, int]:
        return await sizes_of_logs(records)

    async def odd(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        with trying("looking at the logs"):
            return await FOREIGN.run("looking at the logs", odd_logs, tuple(sandboxes), tuple(containers))
