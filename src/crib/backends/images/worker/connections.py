"""Connections to registries: sessions, TLS, redirects, and back-off.

Runs in the worker. Redirects are followed here and not by aiohttp, because secrets stay with their host.
Authorization, the host's own headers and client certificates go only to the origin (scheme, host, port) that
was asked. Once a redirect has led away from it, that origin does not get them either. aiohttp is imported
when the first pull begins, because an import of an archive does not need it.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from crib.backends.images.worker.host_pool import HostPool
from crib.backends.images.worker.places import WAY, Way, address, proxy_of, redirected
from crib.model.image_settings import TransferSettings
from crib.model.registry import RegistryHost
from crib.wire import registry

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp
    import yarl


MAX_REDIRECTS = 5
MAX_TRIES = 5
"""Requests to a host that says 429 or 503, before the next host is asked."""
MAX_BUSY_SECONDS = 60.0
"""Seconds that such a host is waited for at most, whatever its Retry-After says."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 16.0
_BUSY = (429, 503)
_REDIRECTS = (301, 302, 303, 307, 308)
MISLED = 421
"""Status of a failure of ours: the host sends us where it must not (RFC 9110, 15.5.20)."""
_MAX_HEADER = 32 << 10
"""Bytes of one header: signed addresses and tokens in them grow long."""


class HostFailure(Exception):
    """One host did not give what was asked for; `status` is 0 when it did not answer."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        """Seconds after which it said to come again."""


class DamagedFailure(HostFailure):
    """One host gave something whose digest, size or form is wrong."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A GET, or a POST of a form. `authorization` goes to the origin of `url` only, `headers` everywhere.

    `token`: what is answered goes to the registry.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    authorization: str = field(default="", repr=False)
    form: dict[str, str] | None = field(default=None, repr=False)
    token: bool = False


class Connections:
    """The connections of one pull; an async context manager."""

    def __init__(self, pool: HostPool, limits: TransferSettings) -> None:
        self.pool = pool
        self._limits = limits

    async def __aenter__(self) -> Self:
        import aiohttp

        from crib.backends.images.worker.guarded import GuardedConnector

        # Not trust_env: it also reads ~/.netrc, whose passwords nobody gave us for this. No cookies: they
        # would go from one pull's credentials to another host's answer.
        self._session = aiohttp.ClientSession(
            connector=GuardedConnector(),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=self._limits.stall_timeout),
            headers={"User-Agent": "crib", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=1 << 20,
            max_field_size=_MAX_HEADER,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    def mark_dead(self, host: RegistryHost) -> None:
        """It is asked last for the configured time."""
        self.pool.mark_dead(host, self._limits.dead_host_time)

    async def send(self, host: RegistryHost, request: HttpRequest) -> aiohttp.ClientResponse:
        """A response with any status but a redirect, or 429 or 503 before the host was waited for.

        `host` is who is asked, or whose token server is. HostFailure when there is no response.
        """
        pool = self.pool
        origin = str(self._address(request.url).origin())
        deadline = pool.clock() + MAX_BUSY_SECONDS
        for attempt in range(MAX_TRIES):
            pause = pool.held(origin)
            if pool.clock() + pause > deadline:
                raise HostFailure(429, "it said that it is busy", pause)
            if pause:
                await pool.sleep(pause)
            response = await self._follow(host, request)
            if response.status not in _BUSY:
                return response
            failure = await self.refusal(response)
            pause = _pause(attempt, failure.retry_after)
            if attempt + 1 == MAX_TRIES or pool.clock() + pause > deadline:
                break
            pool.hold(origin, pause)
        self.mark_dead(host)
        raise failure

    async def _follow(self, host: RegistryHost, request: HttpRequest) -> aiohttp.ClientResponse:
        url = self._address(request.url)
        start = url.origin()
        trusted = True
        for _ in range(MAX_REDIRECTS + 1):
            trusted = trusted and url.origin() == start
            response = await self._hop(host, request, url, trusted=trusted)
            if response.status not in _REDIRECTS or request.form is not None:
                return response
            location = response.headers.get("Location", "")
            response.release()
            try:
                url = redirected(url, location)
            except ValueError as error:
                raise HostFailure(response.status, f"status {response.status} {error}") from error
        raise HostFailure(response.status, f"redirects more than {MAX_REDIRECTS} times")

    async def _hop(
        self, host: RegistryHost, request: HttpRequest, url: yarl.URL, *, trusted: bool
    ) -> aiohttp.ClientResponse:
        asked = address(host.url).origin()
        itself = url.origin() == asked
        own = trusted and itself
        way = Way(self.pool.places, str(asked), url.host or "", itself, request.token)
        proxy = proxy_of(url)
        headers = [*request.headers]
        if own:
            headers += [pair for pair in host.headers if pair[0].lower() not in _replaced(request)]
        if trusted and request.authorization:
            headers.append(("Authorization", request.authorization))
        try:
            if proxy is not None:
                way.check_name()
            WAY.set(way)
            context = await self.pool.context(host, own=own) if url.scheme == "https" else True
            async with asyncio.timeout(host.connect_timeout):
                return await self._session.request(
                    "GET" if request.form is None else "POST",
                    url,
                    headers=headers,
                    data=request.form,
                    allow_redirects=False,
                    ssl=context,
                    proxy=proxy,
                )
        except TimeoutError as error:
            self.mark_dead(host)
            text = f"{url.host} gave no answer within {host.connect_timeout:g} s"
            raise HostFailure(0, text) from error
        except Exception as error:
            if way.refused:
                raise HostFailure(MISLED, way.refused) from error
            self.mark_dead(host)
            raise translated(error) from error

    @staticmethod
    def _address(text: str) -> yarl.URL:
        try:
            return address(text)
        except ValueError as error:
            raise HostFailure(0, f"{registry.printable(text)} cannot be asked: {error}") from error

    async def read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The whole body, and the response is closed. HostFailure when it has more than `limit` bytes or
        takes longer than a transfer may stall."""
        data = bytearray()
        try:
            async with asyncio.timeout(self._limits.stall_timeout):
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > limit:
                        break
        except Exception as error:
            raise translated(error) from error
        finally:
            response.close() if len(data) > limit else response.release()
        if len(data) > limit:
            raise HostFailure(response.status, f"sent more than {limit} bytes")
        return bytes(data)

    async def refusal(self, response: aiohttp.ClientResponse) -> HostFailure:
        """What a response says that is not what was hoped for; it is closed."""
        try:
            text = registry.error_text(await self.read(response, registry.MAX_ERROR_BODY))
        except HostFailure:
            text = ""
        retry_after = registry.parse_retry_after(response.headers.get("Retry-After", ""), time.time())
        message = f"status {response.status}{': ' if text else ''}{text}"
        return HostFailure(response.status, message, retry_after)


def host_name(host: RegistryHost) -> str:
    """The host as people know it."""
    return urlsplit(host.url).netloc.rpartition("@")[2]


def translated(error: Exception) -> HostFailure:
    """What aiohttp or the system said, as a failure of the host that was asked; others are raised again."""
    import aiohttp

    if isinstance(error, HostFailure):
        return error
    if isinstance(error, TimeoutError):
        return HostFailure(0, "sent too little within the stall time-out")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return HostFailure(0, f"its certificate is not accepted: {error.certificate_error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return HostFailure(0, registry.printable(f"connection failed: {_words_of(error.os_error)}"))
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return HostFailure(0, "closed the connection without an answer")
    if isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
        return HostFailure(0, registry.printable(f"{type(error).__name__}: {error}"))
    raise error


def _words_of(error: OSError) -> str:
    """The system's words, without numbers and addresses. Several errors in one have no number: their text."""
    if isinstance(error, socket.gaierror):
        return str(error).rpartition("] ")[2].lower()
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _pause(attempt: int, retry_after: float | None) -> float:
    """Seconds until the next try, spread so that many nodes do not come back in one moment."""
    spread = random.random()  # noqa: S311  # spreads load, protects nothing
    if retry_after is not None:
        return retry_after + spread * (0.1 + 0.1 * retry_after)
    return min(_FIRST_PAUSE * (1 << attempt), _LONGEST_PAUSE) * (0.5 + 0.5 * spread)


def _replaced(request: HttpRequest) -> set[str]:
    """Names of a host's headers that the request sets itself."""
    names = {name.lower() for name, _ in request.headers}
    return names | {"authorization"} if request.authorization else names
