"""An API server as far as the streams of pods go: it finds the pod, asks the CRI for a URL, and then relays.

    async with api_proxy(cri) as url:        # http://127.0.0.1:PORT
        GET url/api/v1/namespaces/NS/pods/NAME/{exec,attach,portforward}?container=box&command=ls&stdout=true

Bytes go on as they are, whatever protocol they are, and when one side has ended, both do: so it is between a
kubectl, the API server, the kubelet, and a runtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

from crib.client.errors import ClientError, InvalidRequest, NotFound
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.labs.daemon import Cri

HEAD_BYTES = 64 << 10
COPY_BYTES = 64 << 10
_PATH = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)/(exec|attach|portforward)")
_STATUS = {NotFound: "404 Not Found", InvalidRequest: "400 Bad Request"}

Query = dict[str, list[str]]


@contextlib.asynccontextmanager
async def api_proxy(cri: Cri) -> AsyncIterator[str]:
    """Where it listens; connections that are open at the end are broken off."""
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        task.add_done_callback(clients.discard)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await _serve(cri, reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=HEAD_BYTES)
    async with server:
        host, port = server.sockets[0].getsockname()
        try:
            yield f"http://{host}:{port}"
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients)


async def _serve(cri: Cri, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    first, _, headers = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
    method, target, version = first.decode().split(" ")
    try:
        url = urlsplit(await _stream_url(cri, target))
    except ClientError as error:
        status = _STATUS.get(type(error), "500 Internal Server Error")
        body = error.message.encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return
    runtime_reader, runtime_writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        runtime_writer.write(f"{method} {url.path} {version}\r\n".encode() + headers)
        ways = [
            asyncio.ensure_future(_copy(reader, runtime_writer)),
            asyncio.ensure_future(_copy(runtime_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
    finally:
        runtime_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(COPY_BYTES):
        writer.write(data)
        await writer.drain()


async def _stream_url(cri: Cri, target: str) -> str:
    """What a kubelet does: the request's query becomes a request to the CRI. ClientError."""
    parts = urlsplit(target)
    match = _PATH.fullmatch(parts.path)
    if match is None:
        raise NotFound(f"there is no {parts.path}")
    namespace, name, kind = match.groups()
    query = parse_qs(parts.query, keep_blank_values=True)
    pod = await _pod(cri, namespace, name)
    if kind == "portforward":
        ports = [int(port) for value in query.get("ports", []) for port in value.split(",")]
        forward = pb.PortForwardRequest(pod_sandbox_id=pod, port=ports)
        return (await cri.call(cri.runtime.PortForward, forward)).url
    container = await _container(cri, pod, query.get("container", [""])[0])
    wanted = {each: query.get(each, [""])[0].lower() in ("true", "1") for each in ("stdin", "stdout", "tty")}
    wanted["stderr"] = query.get("stderr", [""])[0].lower() in ("true", "1") and not wanted["tty"]
    if kind == "attach":
        attach = pb.AttachRequest(container_id=container, **wanted)
        return (await cri.call(cri.runtime.Attach, attach)).url
    execute = pb.ExecRequest(container_id=container, cmd=query.get("command", []), **wanted)
    return (await cri.call(cri.runtime.Exec, execute)).url


async def _pod(cri: Cri, namespace: str, name: str) -> str:
    for pod, found in (await cri.sandboxes()).items():
        if (found.metadata.namespace, found.metadata.name) == (namespace, name):
            return pod
    raise NotFound(f"pods {name!r} not found")


async def _container(cri: Cri, pod: str, name: str) -> str:
    """The pod's container of that name, or its only one."""
    found = [
        container
        for container, each in (await cri.containers()).items()
        if each.pod_sandbox_id == pod and name in ("", each.metadata.name)
    ]
    if len(found) != 1:
        raise InvalidRequest(f"container {name!r} is not one of the pod's")
    return found[0]
