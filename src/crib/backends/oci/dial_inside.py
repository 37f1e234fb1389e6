"""Connections to what listens on a pod's own kernel, which has the pod's addresses (gVisor).

A socket in the pod's network namespace does not get there: the kernel of the host has no address in it.
Runtimes that can connect to the pod's loopback do so (`runsc port-forward`, since 2023). With others the pod
is reached as from anywhere else, at its own address, and only what listens there.
"""

from __future__ import annotations

import asyncio
import os
import socket

from crib.backends.oci.environment import OciEnvironment
from crib.backends.runtime_words import runtime_words
from crib.backends.streams.command_names import new_name
from crib.backends.streams.dial import CONNECT_TIME, check_own_kernel_address, dial_addresses
from crib.ends import ByteStream
from crib.host.processes import RunOptions, run
from crib.host.streams import SocketStream
from crib.host.threads import OURS, Job
from crib.model.errors import Unavailable
from crib.model.sandbox import SandboxRecord
from crib.model.streams import PodAddress


class InsideDialler:
    """See ContainerStreams.dial."""

    def __init__(self, environment: OciEnvironment) -> None:
        self._env = environment

    async def dial(self, record: SandboxRecord, address: PodAddress) -> ByteStream:
        what = f"connecting to {address} of sandbox {record.id}"
        handler = self._env.facts
        check_own_kernel_address(what, handler, address)
        try:
            async with asyncio.timeout(CONNECT_TIME):
                if handler.forwards_ports:
                    return await self._by_runtime(what, record, address.port)
                return await dial_addresses(handler, record, address.port)
        except TimeoutError:
            raise Unavailable(f"{what}: no answer within {CONNECT_TIME:g} s") from None

    async def _by_runtime(self, what: str, record: SandboxRecord, port: int) -> ByteStream:
        """The runtime connects to a socket of ours, and hands that connection to the pod's kernel."""
        # Below our own directory, and short: a socket's path has at most 107 bytes.
        path = f"{self._env.paths.monitor_sockets}/{new_name()}"
        job = Job(f"a socket for {what}", owner=record.id)
        with await OURS.run(job, _listen, path) as listening:
            try:
                argv = self._env.runtime.forward(record.id, port, path)
                done = await run(argv, timeout=CONNECT_TIME, options=RunOptions(owner=record.id))
                if done.exit_code != 0:
                    raise Unavailable(f"{what}: {runtime_words(done.stderr.decode('utf-8', 'replace'))}")
                try:
                    connected, _ = listening.accept()  # it has connected before it asked the pod's kernel
                except BlockingIOError:
                    raise Unavailable(
                        f"{what}: the runtime said that it had connected, and has not"
                    ) from None
            finally:
                await OURS.run(job, os.unlink, path)
        connected.setblocking(False)
        return SocketStream(connected)


def _listen(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind(path)
        made.listen(1)
    except BaseException:
        made.close()
        raise
    return made
