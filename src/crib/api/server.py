"""The gRPC server on its unix socket, and a call to it as a client would make one: does it still answer?"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterator

from crib.api import health_service, image_service, node_service, runtime_service
from crib.api.calls import Calls
from crib.api.changes import Auditor, Changes
from crib.api.interceptors import Door, ReadinessGate
from crib.api.reflection_service import reflection
from crib.api.requests import CALLS_LIMIT
from crib.api.stream_calls import UrlFor
from crib.engine.node import Node
from crib.model.errors import Broken
from crib.rpc.codes import Code
from crib.rpc.question import ask
from crib.rpc.server import GrpcServer, Method
from crib.tasks.calls import start_call

_log = logging.getLogger(__name__)

RECEIVE_LIMIT = 16 << 20
"""Bytes of one request, as kubelets and the peers have it."""
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7), sun_path less its NUL)."""


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
        self._methods: dict[str, Method] = {}
        self._server = GrpcServer(
            self._methods, start_call, calls_limit=CALLS_LIMIT, message_limit=RECEIVE_LIMIT
        )
        runtime = runtime_service.RuntimeService(node, version, url_for)
        self._register(runtime_service.NAME, runtime.calls())
        self._register(image_service.NAME, image_service.ImageService(node).calls())
        own = node_service.NodeService(node, version, url_for)
        self._register(node_service.NAME, own.calls())
        self._register(health_service.NAME, health_service.HealthService(self.gate, node.notices).calls())
        described = (runtime_service.NAME, image_service.NAME, node_service.NAME, health_service.NAME)
        self._methods |= reflection(described)

    def _register(self, service: str, calls: Calls) -> None:
        for name, call in calls.items():
            self._methods[f"/{service}/{name}"] = self.door.method(name, call, service)

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
            listening = _bound(path)
            os.chown(path, -1, group)
            await self._server.start(listening)
        except OSError as error:
            raise Broken(f"cannot listen on {path}: {error}") from error
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
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._settings.socket_path)

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


def _bound(path: str) -> socket.socket:
    """A socket there; one that an earlier daemon left behind goes."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    made = socket.socket(socket.AF_UNIX)
    try:
        with _umask(0o117):  # it is made within this call, with no moment of wider access
            made.bind(path)
    except OSError:
        made.close()
        raise
    return made


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
_SELF_TEST_AGENT = "cribd-self-test"
"""A separate caller among those that take turns."""


async def answer_problem(path: str, limit: float) -> str:
    """Why Version was not answered within `limit` seconds; empty when it was.

    A refusal because of too many calls at once is an answer as well: an end would not make them fewer.
    """
    try:
        async with asyncio.timeout(limit):
            reader, writer = await asyncio.open_unix_connection(path)  # anew, so that accept is tested too
            with contextlib.closing(writer):
                code, text = await ask(reader, writer, _SELF_TEST_METHOD, _SELF_TEST_AGENT)
    except TimeoutError:
        return f"no answer within {limit:.1f} s"
    except OSError as error:
        code, text = Code.UNAVAILABLE, str(error)
    return "" if code in (Code.OK, Code.RESOURCE_EXHAUSTED) else f"{code.name}: {text}"
