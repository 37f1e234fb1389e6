"""One connection to a runtime's socket, with the CRI's two services and crib's own."""

from __future__ import annotations

import asyncio
import functools
import os
import stat
import time
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from crib import __version__
from crib.client import repeats
from crib.client.deadlines import left_of
from crib.client.errors import ClientError, TimedOut, Unavailable, from_rpc
from crib.stubs.node.v1 import node_pb2_grpc
from crib.stubs.runtime.v1 import api_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from crib.stubs.node.v1.node_pb2_grpc import NodeAsyncStub
    from crib.stubs.runtime.v1.api_pb2_grpc import ImageServiceAsyncStub, RuntimeServiceAsyncStub

DEFAULT_ENDPOINT = "unix:///run/crib/crib.sock"
ENDPOINT_VARIABLE = "CRIB_ENDPOINT"
MAX_MESSAGE = 16 << 20
"""Bytes of one message in either direction: what kubelets allow."""
DEFAULT_TIMEOUT = 120.0
"""Seconds for a call that names none: a kubelet's own runtime request time-out."""
RECONNECT_MS = 100
"""Milliseconds until a socket at which nobody listened is tried again; at most ten times as long."""

UnaryMethod = grpc.aio.UnaryUnaryMultiCallable
"""A service's method with one request and one reply, as `Connection.call` takes it."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def default_endpoint() -> str:
    """What `CRIB_ENDPOINT` says, else the socket of a daemon with default settings."""
    return os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT


def normal_endpoint(endpoint: str) -> str:
    """`endpoint` as gRPC wants it: a bare absolute path becomes `unix://PATH`.

    Raises ClientError for anything that is not a unix socket: a runtime is served nowhere else.
    """
    if endpoint.startswith("/"):
        return f"unix://{endpoint}"
    if endpoint.startswith("unix:") and socket_path(endpoint).startswith("/"):
        return f"unix://{socket_path(endpoint)}"
    raise ClientError(f"endpoint {endpoint!r} is neither unix:///PATH nor an absolute path")


def socket_path(endpoint: str) -> str:
    """The path of the socket behind a `unix:` endpoint."""
    path = endpoint.removeprefix("unix:")
    return path[2:] if path.startswith("//") else path


@functools.cache
def hold_grpc() -> None:
    """Have gRPC keep its thread for as long as this process lives.

    Else it ends with the last channel, wherever that is collected: gRPC joins it there, and waits for ever
    where a call of that channel is collected in the same sweep.
    """
    grpc.aio.init_grpc_aio()  # type: ignore[attr-defined]  # grpc-stubs does not know it


class Connection:
    """Both of the CRI's services and crib's Node service at one endpoint.

    Use it as an async context manager, and make calls through `call` and `stream`, which turn gRPC's errors
    into the tree of `crib.client.errors`:

        async with Connection() as crib:
            version = await crib.call(crib.runtime.Version, VersionRequest())

    The channel connects at the first call. `timeout` is in seconds, for calls that name none. `patience`:
    seconds for which the runtime may be away during calls that may be repeated (see `repeats`); 0 tries once.
    """

    runtime: RuntimeServiceAsyncStub
    image: ImageServiceAsyncStub
    node: NodeAsyncStub

    def __init__(
        self, endpoint: str | None = None, timeout: float = DEFAULT_TIMEOUT, patience: float = 0.0
    ) -> None:
        self.endpoint = normal_endpoint(endpoint or default_endpoint())
        self.timeout = timeout
        self.patience = patience
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            # proxies of the environment must not catch a unix socket
            ("grpc.enable_http_proxy", 0),
            # the pauses between tries; how long one may take (min_reconnect_backoff_ms) stays 20 s
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", 10 * RECONNECT_MS),
            # two connections of one program to one socket are measured apart from each other
            ("grpc.use_local_subchannel_pool", 1),
            # of a unix socket's peer a server sees no more than this; crib takes turns by it
            ("grpc.primary_user_agent", f"crib/{__version__} (process {os.getpid()})"),
        ]
        hold_grpc()
        self._channel = grpc.aio.insecure_channel(self.endpoint, options=options)
        self.runtime = api_pb2_grpc.RuntimeServiceStub(self._channel)
        self.image = api_pb2_grpc.ImageServiceStub(self._channel)
        self.node = node_pb2_grpc.NodeStub(self._channel)

    async def __aenter__(self) -> Self:
        self._check_socket()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection and every call on it."""
        await self._channel.close(None)

    async def call(
        self,
        method: UnaryMethod[_Request, _Response],
        request: _Request,
        timeout: float | None = None,
    ) -> _Response:
        """Make one call. `timeout` is in seconds; 0 waits for ever. Raises ClientError.

        It ends earlier where a `deadline` does.
        """
        limit = self.timeout if timeout is None else timeout or None
        ends = None if limit is None else time.monotonic() + limit
        given_up = None
        while True:
            try:
                return await method(request, timeout=self._time_left(ends, request))
            except grpc.RpcError as error:
                failure = from_rpc(error, self.endpoint, _name_of(request))
                given_up = given_up or time.monotonic() + self.patience
                too_late = min(given_up, ends or given_up) - time.monotonic() <= repeats.PAUSE
                if too_late or not repeats.may_repeat(_name_of(request), error, failure):
                    raise failure from error
            await asyncio.sleep(repeats.PAUSE)

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None = None,
    ) -> AsyncIterator[_Response]:
        """Yield a call's messages as they come. Without a `timeout` (seconds) it may last for ever."""
        ends = None if timeout is None else time.monotonic() + timeout
        call = method(request, timeout=self._time_left(ends, request))
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise from_rpc(error, self.endpoint, _name_of(request)) from error
        finally:
            call.cancel()

    def _time_left(self, ends: float | None, request: object) -> float | None:
        """For gRPC, which takes 0 for no limit. TimedOut if there is none left."""
        left = left_of(ends)
        if left is not None and left <= 0:
            raise TimedOut(f"no time was left for {_name_of(request)} at {self.endpoint}")
        return left

    def _check_socket(self) -> None:
        """Say at once what gRPC would say after a while, and less clearly."""
        path = socket_path(self.endpoint)
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            raise Unavailable(
                f"no runtime answers at {self.endpoint}: no such socket; is cribd running? "
                "(--endpoint, CRIB_ENDPOINT)"
            ) from None
        except PermissionError:
            raise Unavailable(f"no access to {self.endpoint}: permission denied") from None
        except OSError as error:
            raise Unavailable(f"no access to {self.endpoint}: {error.strerror}") from error
        if not stat.S_ISSOCK(mode):
            raise Unavailable(f"{self.endpoint} is not a socket")
        if not os.access(path, os.W_OK):
            raise Unavailable(f"no access to {self.endpoint}: permission denied")


def _name_of(request: object) -> str:
    """Requests are named for their calls: VersionRequest, PullProgressRequest."""
    return type(request).__name__.removesuffix("Request")
