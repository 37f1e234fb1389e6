"""Reading from registries: which place to ask, tokens, manifests, blobs (OCI distribution spec 1.1, Pulling).

Runs in the worker. Places are asked in order, mirrors before the registry itself; what each of them said
is kept for the error. aiohttp is imported when the first pull begins, because an import of an archive does
not need it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, NoReturn, Self
from urllib.parse import urlsplit

from crib.backends.images.documents import FoundImage, image_of, sha256
from crib.backends.images.messages import Endpoint, Pull
from crib.model.errors import REGISTRY_UNAVAILABLE, Broken, CribError, NotFound, Unavailable
from crib.model.ids import Digest
from crib.wire import oci_image, registry

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

_CONNECT_TIMEOUT = 10.0
_MAX_REDIRECTS = 5
_MAX_INDEX_DEPTH = 4
_MAX_ATTEMPTS = 64
_MISSING = 404
_REFUSED = (401, 403)


class EndpointFailure(Exception):
    """One place did not give what was asked for; `status` is 0 when it did not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DamagedFailure(EndpointFailure):
    """One place gave something whose digest or size is wrong."""


class RegistryClient:
    """Connections of one pull; an async context manager."""

    def __init__(self, pull: Pull) -> None:
        self._pull = pull
        self._endpoints = list(pull.endpoints)
        self._tokens: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        import aiohttp

        stall = self._pull.limits.stall_timeout
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=stall),
            headers={"User-Agent": "crib", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=True,
            read_bufsize=1 << 20,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def resolve(self) -> FoundImage:
        """The manifest for this node, its config and its layers."""
        pull = self._pull
        wanted = pull.digest or pull.tag
        data, media_type = await self._manifest(wanted)
        top_digest = sha256(data)
        for _ in range(_MAX_INDEX_DEPTH):
            digest = sha256(data)
            what = f"manifest {digest} of {pull.name}"
            document = oci_image.parse_manifest(data, media_type, what)
            if isinstance(document, oci_image.Manifest):
                config = await self._small_blob(document.config)
                return image_of(document, config, top_digest, pull.architecture)
            entry = oci_image.choose_manifest(document, pull.architecture, what)
            data, media_type = await self._manifest(entry.digest)
            if len(data) != entry.size:
                raise Broken(f"manifest {entry.digest} has {len(data)} bytes, its index says {entry.size}")
        raise Broken(f"manifest of {pull.name} is an index of indexes, nested too deep")

    async def _manifest(self, reference: str) -> tuple[bytes, str]:
        path = registry.manifest_path(self._pull.repository, reference)
        failures: list[tuple[Endpoint, EndpointFailure]] = []
        for endpoint in tuple(self._endpoints):
            try:
                data, headers = await self._read(endpoint, path, oci_image.MAX_DOCUMENT)
                _check_manifest_digest(data, reference, headers.get("Docker-Content-Digest", ""))
            except EndpointFailure as failure:
                failures.append((endpoint, failure))
                continue
            # What gave the manifest is the likeliest to have the layers, so it is asked first from now on.
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return data, headers.get("Content-Type", "").partition(";")[0].strip()
        raise self._error(f"manifest {reference}", failures)

    async def _small_blob(self, descriptor: oci_image.Descriptor) -> bytes:
        path = registry.blob_path(self._pull.repository, descriptor.digest)
        failures: list[tuple[Endpoint, EndpointFailure]] = []
        for endpoint in self._endpoints:
            try:
                data, _ = await self._read(endpoint, path, oci_image.MAX_DOCUMENT)
                _check_blob(data, descriptor)
                return data
            except EndpointFailure as failure:
                failures.append((endpoint, failure))
        raise self._error(f"config {descriptor.digest}", failures)

    async def blob(self, digest: Digest, size: int) -> AsyncGenerator[tuple[bytes, str], None]:
        """The bytes of a blob, each piece with the host it came from.

        A transfer that breaks off goes on where it was, from the next place that has the blob. At most
        `size` bytes come; Broken when a place has more. Whoever takes the bytes checks the digest.
        """
        path = registry.blob_path(self._pull.repository, digest)
        failures: list[tuple[Endpoint, EndpointFailure]] = []
        done = 0
        for attempt in range(_MAX_ATTEMPTS):
            endpoint = self._endpoints[attempt % len(self._endpoints)]
            before = done
            try:
                async with contextlib.aclosing(self._range(endpoint, path, done)) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        if done > size:
                            text = f"{_host(endpoint)} sent more than the {size} bytes of layer {digest}"
                            raise Broken(text)
                        yield chunk, _host(endpoint)
                if done == size:
                    return
                _broke_off(done, size)
            except EndpointFailure as failure:
                if done > before:
                    failures.clear()
                failures.append((endpoint, failure))
                # Everybody had a second chance: something may have been restarted meanwhile.
                hopeless = all(failed.status == _MISSING for _, failed in failures)
                if len(failures) >= len(self._endpoints) * (1 if hopeless else 2):
                    break
        raise self._error(f"layer {digest}", failures)

    async def _range(self, endpoint: Endpoint, path: str, start: int) -> AsyncGenerator[bytes, None]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = await self._get(endpoint, path, headers)
        skip = start if response.status == 200 else 0
        try:
            async for chunk in response.content.iter_any():
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                yield chunk[skip:] if skip else chunk
                skip = 0
        except Exception as error:
            raise _translated(error) from error
        finally:
            response.close()

    async def _read(self, endpoint: Endpoint, path: str, limit: int) -> tuple[bytes, Mapping[str, str]]:
        response = await self._get(endpoint, path, {"Accept": ", ".join(oci_image.ACCEPTED)})
        try:
            return await _body(response, limit), response.headers
        finally:
            response.close()

    async def _get(self, endpoint: Endpoint, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """A response of status 200 or 206; EndpointFailure otherwise."""
        url = endpoint.url.rstrip("/") + path
        response = await self._request(endpoint, url, headers)
        if response.status == 401:
            challenges = registry.parse_challenges(", ".join(response.headers.getall("WWW-Authenticate", [])))
            response.close()
            token_url = registry.token_url(challenges, self._pull.repository)
            if token_url is None or not await self._new_token(endpoint, token_url):
                raise EndpointFailure(401, "asks for credentials")
            response = await self._request(endpoint, url, headers)
        if response.status in (200, 206):
            if urlsplit(endpoint.url).scheme == "https" and response.url.scheme != "https":
                response.close()
                raise EndpointFailure(0, f"redirects to plain http at {response.url.host}")
            return response
        try:
            text = registry.error_text(await _body(response, registry.MAX_ERROR_BODY))
        except EndpointFailure:
            text = ""
        finally:
            response.close()
        raise EndpointFailure(response.status, f"status {response.status}{': ' if text else ''}{text}")

    async def _request(self, endpoint: Endpoint, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        if token := self._tokens.get(endpoint.url):
            headers = {**headers, "Authorization": f"Bearer {token}"}
        try:
            return await self._session.get(url, headers=headers, max_redirects=_MAX_REDIRECTS)
        except Exception as error:
            raise _translated(error) from error

    async def _new_token(self, endpoint: Endpoint, url: str) -> bool:
        """Fetch an anonymous token; False when the token server gives none."""
        try:
            response = await self._session.get(url, max_redirects=_MAX_REDIRECTS)
        except Exception as error:
            raise _translated(error) from error
        try:
            token = registry.parse_token(await _body(response, registry.MAX_TOKEN_BODY))
        finally:
            response.close()
        if response.status != 200 or not token.isprintable() or not token:
            return False
        self._tokens[endpoint.url] = token
        return True

    def _error(self, what: str, failures: list[tuple[Endpoint, EndpointFailure]]) -> CribError:
        """The one error for all that was tried; what the registry itself said decides its kind."""
        tried = "; ".join(dict.fromkeys(f"{_host(endpoint)}: {failure}" for endpoint, failure in failures))
        text = f"{what} of {self._pull.name} could not be pulled ({tried})"
        own = self._pull.endpoints[-1]
        deciding = next((failure for endpoint, failure in failures[::-1] if endpoint == own), failures[-1][1])
        if isinstance(deciding, DamagedFailure):
            return Broken(text)
        if deciding.status == _MISSING:
            return NotFound(text)
        if deciding.status in _REFUSED:
            return NotFound(f"{text}: it does not exist or needs credentials")
        return Unavailable(text, reason=REGISTRY_UNAVAILABLE)


def _host(endpoint: Endpoint) -> str:
    return urlsplit(endpoint.url).netloc


def _broke_off(done: int, size: int) -> NoReturn:
    raise EndpointFailure(0, f"closed the connection after {done} of {size} bytes")


def _check_blob(data: bytes, descriptor: oci_image.Descriptor) -> None:
    if sha256(data) != descriptor.digest or len(data) != descriptor.size:
        raise DamagedFailure(200, f"sent {len(data)} bytes of digest {sha256(data)}")


def _check_manifest_digest(data: bytes, reference: str, header: str) -> None:
    digest = sha256(data)
    if oci_image.is_digest(reference) and digest != reference:
        raise DamagedFailure(200, f"sent a manifest of digest {digest} for {reference}")
    if oci_image.is_digest(header) and digest != header:
        raise DamagedFailure(200, f"sent a manifest of digest {digest} and said {header}")


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body; EndpointFailure when it is longer than `limit` bytes."""
    data = bytearray()
    try:
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > limit:
                break
    except Exception as error:
        raise _translated(error) from error
    if len(data) > limit:
        raise EndpointFailure(response.status, f"sent more than {limit} bytes")
    return bytes(data)


def _translated(error: Exception) -> EndpointFailure:
    """What aiohttp or the system said, as a failure of the place that was asked."""
    import aiohttp

    if isinstance(error, EndpointFailure):
        return error
    if isinstance(error, TimeoutError):
        return EndpointFailure(0, str(error) or "no byte came within the stall time-out")
    if isinstance(error, aiohttp.ClientConnectorError):
        return EndpointFailure(0, f"connection failed: {error.os_error}")
    if isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
        return EndpointFailure(0, f"{type(error).__name__}: {error}")
    raise error
