"""The gRPC server on its unix socket, and a call to it as a client would make one: does it still answer?"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
from collections.abc import Iterator

import grpc
from grpc import aio

from crib.api import health_service, image_service, node_service, runtime_service
from crib.api.calls import Calls
from crib.api.changes import Auditor, Changes
from crib.api.interceptors import GRPC_LOG, Door, ReadinessGate, without_callers_gone
from crib.api.reflection_service import Reflection
from crib.api.requests import CALLS_LIMIT
from crib.api.stream_calls import UrlFor
from crib.engine.node import Node
from crib.model.errors import Broken
from crib.stubs.runtime.v1 import api_pb2 as pb

_log = logging.getLogger(__name__)

RECEIVE_LIMIT = 16 << 20
"""Bytes of one request, as kubelets and the peers have it."""
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7), sun_path less its NUL)."""
OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_LIMIT),
    ("grpc.max_send_message_length", -1),
    # no reading ahead: a request that has not been taken yet stays with its sender (see `requests`)
    ("grpc.http2.bdp_probe", 0),
    # a second daemon is kept out by the lock file; sharing a port is not what a unix socket can do
    ("grpc.so_reuseport", 0),
)


class Server:
    """Serves the CRI, crib's Node service, health and reflection.

    Answers Version and questions after its health at once, the rest when `gate` is open.
    """

    def __init__(self, node: Node, version: str, url_for: UrlFor, auditor: Auditor | None = None) -> None:
        """`url_for` makes the URLs of streams, which another server serves."""
        self.gate = ReadinessGate()
        self._changes = Changes(node.describe, auditor)
        self.door = Door(self.gate, self._changes)
        self._settings = node.settings
        self._events = node.events
        self._history = node.history
        self._admission = node.admission
        logging.getLogger(GRPC_LOG).addFilter(without_callers_gone)
        self._server = aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_LIMIT)
        runtime = runtime_service.RuntimeService(node, version, url_for)
        self._register(runtime_service.NAME, runtime.calls())
        self._register(image_service.NAME, image_service.ImageService(node).calls())
        own = node_service.NodeService(node, version, url_for)
        self._register(node_service.NAME, own.calls())
        self._register(health_service.NAME, health_service.HealthService(self.gate, node.notices).calls())
        described = (runtime_service.NAME, image_service.NAME, node_service.NAME, health_service.NAME)
        self._server.add_generic_rpc_handlers((Reflection(described),))

    def _register(self, service: str, calls: Calls) -> None:
        handlers = {name: self.door.handler(name, call, service) for name, call in calls.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    def audit_by(self, auditor: Auditor | None) -> None:
        """Tell another one of changes from now on."""
        self._changes.auditor = auditor

    async def start(self) -> None:
        """Bind the socket (0660, in a directory 0751, for root and the settings' group) and serve.

        Raises Broken when the socket cannot be bound.
        """
        path = self._settings.socket_path
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise Broken(f"cannot listen on {path}: a socket's path has at most {MAX_SOCKET_PATH} bytes")
        group = group_id(self._settings.socket_group)
        try:
            self._make_directory(os.path.dirname(path), group)
            bound = self._bind(path)
            os.chown(path, -1, group)
        except (OSError, RuntimeError) as error:
            raise Broken(f"cannot listen on {path}: {error}") from error
        if not bound:
            raise Broken(f"cannot listen on {path}")
        await self._server.start()
        _log.info("listening on %s", path)

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give those under way `grace` seconds.

        Event streams end at once, and verbs that wait for a place.
        """
        self.gate.shut("crib is stopping")
        self._admission.close()
        self._events.close()
        self._history.close()
        await self._server.stop(grace)

    def _bind(self, path: str) -> int:
        with _umask(0o117):  # the socket is made within this call, with no moment of wider access
            return self._server.add_insecure_port(f"unix:{path}")

    def _make_directory(self, directory: str, group: int) -> None:
        """Restrict the state directory, which is ours; any other existing directory belongs to its owner."""
        try:
            with _umask(0o022):
                os.makedirs(directory, 0o751)
        except FileExistsError:
            if directory != self._settings.state.rstrip("/"):
                return
        # The group may use the socket; the root of a pod with a user namespace only passes through.
        os.chmod(directory, 0o751)  # noqa: S103
        os.chown(directory, -1, group)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def group_id(name: str) -> int:
    """The id of the settings' group, or of our own if it does not exist."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return os.getegid()


_SELF_TEST_METHOD = "/runtime.v1.RuntimeService/Version"
_SELF_TEST_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a new connection each time, so that accept is tested too
    ("grpc.primary_user_agent", "cribd-self-test"),  # a separate caller among those that take turns
)


async def answer_problem(socket: str, limit: float) -> str:
    """Why Version was not answered within `limit` seconds; empty when it was.

    A refusal because of too many calls at once is an answer as well: an end would not make them fewer.
    """
    async with aio.insecure_channel(f"unix:{socket}", _SELF_TEST_OPTIONS) as channel:
        try:
            async with asyncio.timeout(limit):
                await channel.unary_unary(
                    _SELF_TEST_METHOD, pb.VersionRequest.SerializeToString, pb.VersionResponse.FromString
                )(pb.VersionRequest())
        except TimeoutError:
            return f"no answer within {limit:.1f} s"
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                return f"{error.code().name}: {error.details()}"
    return ""
