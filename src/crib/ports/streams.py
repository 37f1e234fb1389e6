"""Commands and connections into what runs; the ends that they give are in `crib.ends`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord
from crib.model.sandbox import SandboxRecord
from crib.model.streams import AttachRequest, ExecProcess, PodAddress


class ContainerStreams(Protocol):
    """Opens the container's end of a stream."""

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        """Run a command. WrongState when the container does not run, Broken in the runtime's words."""
        ...

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        """Join the streams of the container's first process. Several may; none of them slows it."""
        ...

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        """Connect to something in the pod; `containers` are its running ones. Unavailable when it refuses.

        A port: on the pod's loopback, IPv4 first, then IPv6. Of UDP each message is one datagram, framed as
        wire.portforward says.
        """
        ...
