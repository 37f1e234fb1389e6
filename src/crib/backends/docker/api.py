"""Calls of Docker's Engine over its socket: each bounded in time, and its failures in our words.

Source: Docker Engine API v1.41 and later. Streams that a call turns its connection into are in `hijacked`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from crib.backends.docker.hijacked import Hijacked
from crib.model.errors import Broken, CribError, InvalidRequest, NotFound, Unavailable, WrongState

CONNECT_TIME = 5.0
"""Seconds until a connection to the socket is there."""
OLDEST_API = (1, 41)
"""Of Engine 20.10: the first that takes a cgroup namespace, and a container's own sysctls over its own."""
NEWEST_API = (1, 47)
"""The newest that was read for this; a newer Engine speaks it too."""
_LONGEST_ANSWER = 64 << 20
_LONGEST_WORDS = 4096
_PIECE = 64 << 10
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
_ERRORS: Mapping[int, type[CribError]] = {
    400: InvalidRequest,
    404: NotFound,
    409: WrongState,
    503: Unavailable,
}


class EngineLost(Unavailable):
    """The Engine is not there, or does not answer."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One request. `what` says for people what is asked, lower-case, with the id."""

    what: str
    method: str
    path: str
    """Below the version."""
    query: Mapping[str, Any] = field(default_factory=dict)
    """Values that are no strings are sent as JSON."""
    body: Any = None
    limit: float = 0.0
    """Seconds; 0: the setting `timeout`."""


class EngineApi:
    """One Engine. Its connections are closed with it."""

    def __init__(self, socket: str, limit: Callable[[], float]) -> None:
        self.socket = socket
        self.api = OLDEST_API
        """The version that calls are made in; `EngineLink` knows what both sides speak."""
        self.lost_at = 0.0
        """When it did not answer last, on the monotonic clock."""
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, call: EngineCall) -> Any:
        """The answer's JSON, None where there is none. CribError by the Engine's code and words."""
        limit = call.limit or self._limit()
        try:
            async with asyncio.timeout(limit):
                async with self._open(call) as response:
                    return await _document(response)
        except TimeoutError as error:
            raise self._late(call, limit) from error

    async def send(self, call: EngineCall, pieces: AsyncIterator[bytes]) -> Any:
        """The same with a body that is made while it is sent: an archive."""
        limit = call.limit or self._limit()
        failures: list[CribError] = []
        try:
            async with asyncio.timeout(limit):
                async with self._open(call, data=_watched(pieces, failures)) as response:
                    return await response.read()
        except TimeoutError as error:
            raise self._late(call, limit) from error
        except EngineLost as error:
            raise (failures[0] if failures else error) from error

    async def stream(self, call: EngineCall) -> AsyncGenerator[bytes, None]:
        """What comes, as it comes, to its end. Only the answer's head is bounded in time."""
        async with self._bounded_open(call) as response:
            try:
                async for piece in response.content.iter_chunked(_PIECE):
                    yield piece
            except (aiohttp.ClientError, OSError) as error:
                raise self._lost(call, error) from error

    async def hijack(self, call: EngineCall, *, terminal: bool) -> Hijacked:
        """Have the call turn its connection into streams."""
        limit = call.limit or self._limit()
        try:
            async with asyncio.timeout(limit):
                response = await self._request(call, headers=_UPGRADE)
                if response.status != 101:
                    async with response:
                        await self._check(call, response)
                        raise Broken(f"{call.what}: the Engine gives no stream")
                return Hijacked(response, terminal=terminal)
        except TimeoutError as error:
            raise self._late(call, limit) from error
        except ConnectionError as error:
            raise self._lost(call, error) from error

    async def close(self) -> None:
        """Let go of all connections; streams break off."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _bounded_open(self, call: EngineCall) -> AsyncIterator[aiohttp.ClientResponse]:
        limit = call.limit or self._limit()
        try:
            async with asyncio.timeout(limit):
                response = await self._request(call)
                await self._check(call, response)
        except TimeoutError as error:
            raise self._late(call, limit) from error
        try:
            yield response
        finally:
            response.close()

    @asynccontextmanager
    async def _open(self, call: EngineCall, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._request(call, **more)
        async with response:
            await self._check(call, response)
            try:
                yield response
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise self._lost(call, error) from error

    async def _request(self, call: EngineCall, **more: Any) -> aiohttp.ClientResponse:
        major, minor = self.api
        url = f"http://engine/v{major}.{minor}{call.path}"
        query = {key: _text(value) for key, value in call.query.items()}
        if call.body is not None:
            more["json"] = call.body
        try:
            return await self._connected().request(call.method, url, params=query, **more)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(call, error) from error

    async def _check(self, call: EngineCall, response: aiohttp.ClientResponse) -> None:
        """An error by the code; 304 says that it is so already."""
        if response.status < 400:
            return
        said = (await response.content.read(_LONGEST_WORDS)).decode("utf-8", "replace")
        try:
            words = str(json.loads(said)["message"])
        except (ValueError, KeyError, TypeError):
            words = said.strip() or f"code {response.status}"
        response.close()
        raise _ERRORS.get(response.status, Broken)(f"{call.what}: the Engine says: {words}")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Logs and clients that are attached hold a connection each.
            connector = aiohttp.UnixConnector(self.socket, limit=0)
            timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIME)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, trust_env=False
            )
        return self._session

    def _lost(self, call: EngineCall, error: Exception) -> EngineLost:
        self.lost_at = time.monotonic()
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        return EngineLost(f"{call.what}: the Engine at {self.socket} is not to be reached: {reason}")

    def _late(self, call: EngineCall, limit: float) -> EngineLost:
        self.lost_at = time.monotonic()
        return EngineLost(f"{call.what}: the Engine at {self.socket} did not answer within {limit:g} s")


async def _watched(pieces: AsyncIterator[bytes], failures: list[CribError]) -> AsyncIterator[bytes]:
    """What fails here would be told as a failure of the connection."""
    try:
        async for piece in pieces:
            yield piece
    except CribError as error:
        failures.append(error)
        raise


async def _document(response: aiohttp.ClientResponse) -> Any:
    if response.status in (204, 304):
        return None
    parts, size = [], 0
    async for piece in response.content.iter_any():
        parts.append(piece)
        size += len(piece)
        if size > _LONGEST_ANSWER:
            raise ValueError(f"its answer has more than {_LONGEST_ANSWER} bytes")
    data = b"".join(parts)
    return json.loads(data) if data.strip() else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
