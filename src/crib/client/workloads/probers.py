"""Asking a container how it is: a command in it, HTTP, TCP or gRPC. Never raises for a bad answer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.client import health, pods
from crib.client.errors import ClientError, TimedOut
from crib.client.workloads.probing import ProbeAnswer, ProbeTally
from crib.manifest.behaviour_plan import ExecAction, GrpcAction, HttpAction, TcpAction
from crib.stubs.runtime.v1.api_pb2 import ExecSyncRequest

if TYPE_CHECKING:
    import aiohttp

    from crib.client.connection import Connection
    from crib.manifest.behaviour_plan import ProbeAction, ProbePlan

MAX_TEXT = 10 << 10
"""Bytes of an answer that are read, and kept of a command's output; as in a kubelet."""
EXEC_MARGIN = 10.0
"""Seconds that the runtime gets to end a command that took too long, and to say so."""
REDIRECTS = 10
LOOPBACK = "127.0.0.1"
AGENT = "kube-probe/crib"
"""Servers tell probes from visitors by the beginning of it."""


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """The container that is asked. `address` is its pod's."""

    connection: Connection
    container: str
    address: str


async def address_of(connection: Connection, pod_id: str) -> str:
    """Where the pod's servers are; a pod on the host's network has no address of its own. ClientError."""
    status = await pods.sandbox_status(connection, pod_id)
    return status.network.ip or LOOPBACK


async def ask(target: ProbeTarget, action: ProbeAction, timeout: float) -> ProbeAnswer:
    """One question, to be answered within `timeout` seconds."""
    try:
        if isinstance(action, ExecAction):
            return await run_command(target, action, timeout)
        async with asyncio.timeout(timeout):
            if isinstance(action, HttpAction):
                return await get(target, action)
            if isinstance(action, TcpAction):
                return await _connect(action.host or target.address, action.port)
            return await _ask_grpc(target.address, action, timeout)
    except (TimeoutError, TimedOut):
        return ProbeAnswer(False, f"no answer within {timeout:g} s")
    except (ClientError, OSError) as error:
        return ProbeAnswer(False, str(error)[:MAX_TEXT])


async def first_result(target: ProbeTarget, probe: ProbePlan, delay: float) -> ProbeAnswer:
    """Ask until a threshold is reached, beginning in `delay` seconds; the answer that reached it."""
    await asyncio.sleep(delay)
    tally = ProbeTally(probe)
    while True:
        answer = await ask(target, probe.action, probe.timeout)
        if tally.take(answer) is not None:
            return answer
        await asyncio.sleep(probe.period)


async def run_command(target: ProbeTarget, action: ExecAction, timeout: float) -> ProbeAnswer:
    """The command's exit code decides. ClientError; TimedOut when the runtime ended it."""
    connection = target.connection
    request = ExecSyncRequest(
        container_id=target.container, cmd=action.command, timeout=max(1, round(timeout))
    )
    reply = await connection.call(connection.runtime.ExecSync, request, timeout + EXEC_MARGIN)
    output = (reply.stdout + reply.stderr)[:MAX_TEXT].decode(errors="replace").strip()
    return ProbeAnswer(reply.exit_code == 0, output or f"exit code {reply.exit_code}")


async def get(target: ProbeTarget, action: HttpAction) -> ProbeAnswer:
    """GET, by IPv4 or IPv6, without a proxy. Certificates are not verified: the pod's are its own affair.

    A redirect to another host is a good answer: the server is up. OSError when there is none.
    """
    import aiohttp  # takes long to import, and many pods need none
    from yarl import URL

    host = action.host or target.address
    shown = f"[{host}]" if ":" in host else host
    url = URL(f"{action.scheme.lower()}://{shown}:{action.port}{action.path}", encoded=True)
    headers = {"User-Agent": AGENT, "Accept": "*/*", **dict(action.headers)}
    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=False, force_close=True), trust_env=False
        ) as session:
            for _ in range(REDIRECTS):
                async with session.get(url, headers=headers, allow_redirects=False) as reply:
                    place = reply.headers.get("Location")
                    if place is None or not 300 <= reply.status < 400:
                        return await _http_answer(reply)
                    further = url.join(URL(place))
                    if further.host != url.host:
                        return ProbeAnswer(True, f"redirected to {further.host}")
                    url = further
    except (aiohttp.ClientError, ValueError) as error:
        raise OSError(f"GET {url}: {str(error) or type(error).__name__}") from error
    return ProbeAnswer(False, f"GET {url}: more than {REDIRECTS} redirects")


async def _http_answer(reply: aiohttp.ClientResponse) -> ProbeAnswer:
    body = await reply.content.read(MAX_TEXT)
    good = 200 <= reply.status < 400
    words = body.decode(errors="replace").strip() if not good else ""
    return ProbeAnswer(good, f"HTTP status {reply.status}{': ' if words else ''}{words}"[:MAX_TEXT])


async def _connect(host: str, port: int) -> ProbeAnswer:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ProbeAnswer(True, f"{host}:{port} accepts connections")


async def _ask_grpc(address: str, action: GrpcAction, timeout: float) -> ProbeAnswer:
    shown = f"[{address}]" if ":" in address else address
    good, word = await health.is_serving(f"{shown}:{action.port}", action.service, timeout)
    return ProbeAnswer(good, word)
