"""A plugin as a program: its arguments, the connection to its runtime, and another one when that is gone."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crib.nri.identity import DEFAULT_SOCKET, SOCKET_VARIABLE, NriError, PluginIdentity, identity_of
from crib.nri.plugin import NodePlugin, events_of
from crib.nri.session import hold_session
from crib.ttrpc.carriers import SocketCarrier

CONNECT_SECONDS = 10.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds before the next try to connect; they double from the first."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """How a plugin reaches its runtime, and as what."""

    identity: PluginIdentity
    socket: str = DEFAULT_SOCKET
    descriptor: int | None = None
    """The connection itself, if the runtime has started the plugin."""
    reconnect: bool = False
    """Whether the plugin waits for a runtime that is gone or not there yet, instead of ending."""


def options_of(arguments: Sequence[str], environment: Mapping[str, str]) -> PluginOptions:
    """What the command line (with the program first) and the environment say. NriError if they do not do."""
    parser = argparse.ArgumentParser(prog=os.path.basename(arguments[0]), description="A node plugin (NRI).")
    parser.add_argument("--name", default="", help="name to register as")
    parser.add_argument(
        "--idx", default="", help="index to register as: two digits, lower ones are asked first"
    )
    parser.add_argument("--socket", default=DEFAULT_SOCKET, help="socket of the runtime (%(default)s)")
    parser.add_argument("--reconnect", action="store_true", help="wait for the runtime when it is gone")
    given = parser.parse_args(arguments[1:])
    identity = identity_of(given.name, given.idx, arguments[0], environment)
    descriptor = environment.get(SOCKET_VARIABLE, "")
    if not descriptor:
        return PluginOptions(identity, given.socket, reconnect=given.reconnect)
    if not descriptor.isdecimal():
        raise NriError(f"{SOCKET_VARIABLE}={descriptor}: this is no descriptor")
    return PluginOptions(identity, descriptor=int(descriptor))


async def serve(plugin: NodePlugin, options: PluginOptions) -> None:
    """Run the plugin until its runtime ends. NriError if it cannot run, or its runtime is gone.

    With `reconnect` only a cancellation ends it.
    """
    events_of(plugin)  # before the runtime hears of it
    pause = FIRST_PAUSE
    while True:
        try:
            carrier = await _connected(options)
            pause = FIRST_PAUSE
            await hold_session(plugin, options.identity, carrier)
        except NriError as error:
            if not options.reconnect:
                raise
            _log.warning("%s; next try in %g s", error, pause)
        if not options.reconnect:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def run(plugin: NodePlugin, arguments: Sequence[str] | None = None) -> None:
    """Be a plugin program: read the command line, log to stderr, and run until the runtime ends.

    SIGTERM and SIGINT end it too. Exits with 1 and the reason on stderr if the plugin cannot go on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options = options_of(sys.argv if arguments is None else arguments, os.environ)
        asyncio.run(_until_told(plugin, options))
    except NriError as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {error}")


async def _until_told(plugin: NodePlugin, options: PluginOptions) -> None:
    loop = asyncio.get_running_loop()
    serving = loop.create_task(serve(plugin, options), name="plugin")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.wait((serving,))
    if not serving.cancelled():
        serving.result()


async def _connected(options: PluginOptions) -> SocketCarrier:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if options.descriptor is None:
                _, carrier = await loop.create_unix_connection(SocketCarrier, options.socket)
            else:
                connection = socket.socket(fileno=options.descriptor)
                connection.setblocking(False)
                _, carrier = await loop.create_connection(SocketCarrier, sock=connection)
    except TimeoutError:
        raise NriError(f"{options.socket} did not answer within {CONNECT_SECONDS:g} s") from None
    except OSError as error:
        where = options.socket if options.descriptor is None else f"descriptor {options.descriptor}"
        raise NriError(f"cannot connect to the runtime at {where}: {error.strerror or error}") from error
    return carrier
