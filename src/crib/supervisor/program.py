"""The daemon's child: keeps up the pods whose units lie in a directory, until its standard input ends.

A line on standard input means that the units have changed. Reports go to standard output, a line of JSON each
(`crib.wire.kept`); what a person should know goes to standard error. It ends when there are no units.

For tests only: CRIB_TEST_PAUSES=FIRST:MOST sets the pauses between restarts, in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import sys

from crib.client import Connection, images
from crib.client.errors import ClientError
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1.api_pb2 import AuthConfig
from crib.supervisor.backoff import Pauses
from crib.supervisor.keeper import RETRY, Surroundings
from crib.supervisor.kept import KeptUnits
from crib.wire.kept import PodReport, encode_report

PAUSES_VARIABLE = "CRIB_TEST_PAUSES"
LOCK_AGAIN = 0.1
"""Seconds until the lock is tried again: a predecessor holds it that has not noticed yet that it is over."""


class _Told:
    """Notes for the daemon's log, reports for the daemon."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def waits_for(self, what: str) -> None:
        """Nobody watches; reports say how far a pod is."""

    async def pull(self, connection: Connection, image: str, auth: AuthConfig | None) -> None:
        self.note(f"pulling {image}")
        await images.pull(connection, image, auth=auth)

    def told(self, report: PodReport) -> None:
        os.write(sys.stdout.fileno(), encode_report(report))


def main() -> None:
    """The program; its arguments are sys.argv's."""
    parser = argparse.ArgumentParser("crib.supervisor", description="Keep up the pods of crib run --restart.")
    parser.add_argument("--endpoint", required=True, help="the runtime's socket")
    parser.add_argument("--kept", required=True, metavar="DIRECTORY", help="the units")
    options = parser.parse_args()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):  # the daemon has gone
        asyncio.run(_serve(options.endpoint, options.kept))


async def _serve(endpoint: str, directory: str) -> None:
    orders = await _orders()
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while not _locked(lock):
            if await _order_within(orders, LOCK_AGAIN) == b"":
                return
        while not (connection := await _connected(endpoint)):
            if await _order_within(orders, RETRY) == b"":
                return
        try:
            await _keep(connection, directory, orders)
        finally:
            await connection.close()
    finally:
        os.close(lock)


async def _keep(connection: Connection, directory: str, orders: asyncio.StreamReader) -> None:
    told = _Told()
    kept = KeptUnits(connection, directory, Surroundings(Dirs(""), told, told.told, _pauses()))
    try:
        while True:
            await kept.look()
            if not kept or await orders.readline() == b"":
                return
    finally:
        await kept.close()


async def _connected(endpoint: str) -> Connection | None:
    """The daemon serves its socket before it starts us; another runtime may still be starting."""
    try:
        return await Connection(endpoint).__aenter__()
    except ClientError as error:
        print(error, file=sys.stderr, flush=True)
        return None


async def _orders() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _order_within(orders: asyncio.StreamReader, seconds: float) -> bytes | None:
    """A line, an empty one at the end, or None when there is none in time."""
    try:
        async with asyncio.timeout(seconds):
            return await orders.readline()
    except TimeoutError:
        return None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pauses() -> Pauses:
    first, _, most = os.environ.get(PAUSES_VARIABLE, "").partition(":")
    return Pauses(float(first), float(most)) if first and most else Pauses()
