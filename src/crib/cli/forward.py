"""`crib forward`: local sockets whose connections continue in a pod."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.output import clean
from crib.cli.session import CommandError, say
from crib.client import lookup, streams
from crib.client.errors import ClientError
from crib.client.streams.listening import Datagrams, ForwardedSocket
from crib.wire.portforward import Target, decode_target

if TYPE_CHECKING:
    from crib.cli.options import ForwardOptions
    from crib.cli.session import CliSession

_MAX_PORT = 0xFFFF
_SPEC = re.compile(
    r"(?:(?P<local>[0-9]{0,5}):)?(?P<remote>[0-9]{1,5}|udp:[0-9]{1,5}|unix:[^:]+:/.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Spec:
    """One argument. `local` is the local port, 0 for any free one."""

    local: int
    target: Target


def parse(text: str) -> Spec:
    """`[LOCAL:]REMOTE`; CommandError."""
    match = _SPEC.fullmatch(text)
    try:
        target = decode_target(match["remote"] if match else "")
    except ValueError:
        wanted = "PORT, LOCAL:PORT, udp:PORT or unix:CONTAINER:/PATH"
        raise CommandError(f"{text!r} is not {wanted}", 2) from None
    assert match is not None
    local = target.port if match["local"] is None else int(match["local"] or 0)
    if local > _MAX_PORT:
        raise CommandError(f"{text!r}: {local} is not a port number", 2)
    return Spec(local, target)


async def forward(session: CliSession, options: ForwardOptions) -> None:
    """Listen until the command is interrupted."""
    specs = [parse(text) for text in options.ports]
    async with session.connect() as connection:
        pod = await lookup.find_pod(connection, options.pod)
        # Fail now, not at the first connection, if the runtime refuses.
        await streams.forward_url(connection, pod.id, [spec.target for spec in specs])

        def dial(target: Target) -> contextlib.AbstractAsyncContextManager[streams.ForwardedConnection]:
            return streams.forward(connection, pod.id, target, options.transport.value, options.ca_file)

        async with contextlib.AsyncExitStack() as stack:
            for spec in specs:
                listener = Datagrams if spec.target.kind == "udp" else ForwardedSocket
                listening = listener(spec.target, dial, _tell)
                await stack.enter_async_context(_listening(listening, options.address, spec))
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _listening(listener: ForwardedSocket | Datagrams, address: str, spec: Spec) -> AsyncIterator[None]:
    try:
        host, port = await listener.listen(address, spec.local)
    except OSError as error:
        raise CommandError(f"cannot listen on {address}:{spec.local}: {error.strerror or error}") from error
    print(f"Forwarding from {f'[{host}]' if ':' in host else host}:{port} -> {spec.target}", flush=True)
    try:
        yield
    finally:
        await listener.close()


def _tell(target: Target, error: ClientError) -> None:
    say(clean(f"crib: {target}: {' '.join(error.message.split())}"))
