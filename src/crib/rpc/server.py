"""Methods, the socket where clients connect, and how many calls there are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from crib.rpc.codes import CallerGone, CallRefused, Code
from crib.rpc.connection import GrpcConnection

if TYPE_CHECKING:
    import socket

    from crib.rpc.call import GrpcCall

_log = logging.getLogger(__name__)

BACKLOG = 1024
"""Clients that have not been accepted yet."""
CONNECTIONS_LIMIT = 1024
"""Connections at once: one more, and the idle one that is the oldest has to go. Its client may come again."""
CLOSE_LIMIT = 1.0
"""Seconds for the last bytes to go when it stops."""
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

Handler = Callable[["GrpcCall"], Awaitable["bytes | None"]]
"""Answers a call with the one message that it has not written itself, or with None."""


class StartCall(Protocol):
    """What starts tasks, as keepers and groups do."""

    def __call__(self, name: str, work: Coroutine[Any, Any, None], /) -> asyncio.Task[None]: ...


@dataclass(frozen=True, slots=True)
class Method:
    """How a call is handled."""

    handle: Handler
    at_once: Callable[[GrpcCall, bytes], bytes] | None = None
    """Does the same where the request is here already, without waiting. None: nothing does."""


class GrpcServer:
    """Answers on every connection to its socket."""

    def __init__(
        self, methods: Mapping[str, Method], start: StartCall, *, calls_limit: int, message_limit: int
    ) -> None:
        """`methods` by their paths, as `/runtime.v1.RuntimeService/Version`."""
        self.message_limit = message_limit
        """Bytes of one message that comes."""
        self._methods = methods
        self._start = start
        self._calls_limit = calls_limit
        self._open = 0
        self._connections: dict[GrpcConnection, None] = {}
        """The oldest first."""
        self._listening: asyncio.Server | None = None
        self._changed = asyncio.Event()
        """Set when a call has ended or a connection is lost."""

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_unix_server(
            lambda: GrpcConnection(self), sock=listening, backlog=BACKLOG
        )

    async def stop(self, grace: float) -> None:
        """Take no more clients and calls, give those that are open so many seconds, and end the rest."""
        if self._listening is not None:
            self._listening.close()
        for connection in tuple(self._connections):
            connection.leave()
        await self._until(lambda: not self._open, grace)
        for connection in tuple(self._connections):
            connection.close()
        await self._until(lambda: not (self._connections or self._open), CLOSE_LIMIT)
        for connection in tuple(self._connections):
            connection.abort()
        await self._until(lambda: not self._connections, CLOSE_LIMIT)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()

    # see `connection.Answering`

    def connected(self, connection: GrpcConnection) -> None:
        if len(self._connections) >= CONNECTIONS_LIMIT:  # each costs a descriptor, which all of crib needs
            idle = next((other for other in self._connections if other.is_idle), None)
            if idle is not None:
                del self._connections[idle]
                idle.end()
        self._connections[connection] = None

    def lost(self, connection: GrpcConnection) -> None:
        self._connections.pop(connection, None)
        self._changed.set()

    def admits(self) -> bool:
        self._open += 1
        return self._open <= self._calls_limit

    def ended(self) -> None:
        self._open -= 1
        self._changed.set()

    def begin(self, call: GrpcCall, *, at_once: bool) -> None:
        method = self._methods.get(call.path)
        if method is None:
            call.refuse(Code.UNIMPLEMENTED, f"crib has no method {call.path}")
        elif at_once and method.at_once is not None and (message := call.take_first()) is not None:
            answer = None
            try:
                answer = copy_context().run(method.at_once, call, message)
            except Exception as error:
                _failed(call, error)
            call.finish(answer)
        else:
            call.task = self._start(call.path, self._serve(call, method.handle))
            if (seconds := _seconds(call.timeout)) is not None:
                call.timer = asyncio.get_running_loop().call_later(seconds, call.expire)

    async def _serve(self, call: GrpcCall, handle: Handler) -> None:
        answer = None
        try:
            answer = await handle(call)
        except CallerGone:
            return
        except CallRefused as error:
            call.set_status(error.code, str(error))
        except asyncio.CancelledError:  # nobody is told if the caller ended it
            call.set_status(Code.UNAVAILABLE, "the call was ended")
        except Exception as error:
            _failed(call, error)
        call.task = None  # it ends here: nobody needs to cancel it any more
        call.finish(answer)


def _failed(call: GrpcCall, error: Exception) -> None:
    _log.error("%s failed", call.path, exc_info=error)
    call.set_status(Code.INTERNAL, f"{type(error).__name__}: {error}")


def _seconds(text: str) -> float | None:
    """A `grpc-timeout`; None if there is none that can be read."""
    found = _TIMEOUT.fullmatch(text)
    return None if found is None else int(found[1]) * _UNITS[found[2]]
