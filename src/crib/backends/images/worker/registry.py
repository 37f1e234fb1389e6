"""Reading from registries: which host to ask, manifests, configs, signatures, blobs (OCI distribution spec
1.1, Pulling).

Runs in the worker. Hosts are asked in the order of the pull, those that are away last; what each of them
said is kept for the error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlencode

from crib.backends.images.messages import Pull
from crib.backends.images.worker.connections import (
    Connections,
    DamagedFailure,
    HostFailure,
    HttpRequest,
    host_name,
    translated,
)
from crib.backends.images.worker.documents import FoundImage, image_of, wire_platform
from crib.backends.images.worker.host_pool import HostPool
from crib.backends.images.worker.places import address
from crib.backends.images.worker.tokens import Authorizer, refusal
from crib.model.errors import REGISTRY_UNAVAILABLE, Broken, CribError, NotFound, Unavailable
from crib.model.ids import digest_of, is_digest
from crib.model.image import ImageDocuments, Signature
from crib.model.registry import RegistryHost
from crib.wire import oci_image, registry

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

_MAX_INDEX_DEPTH = 4
_MISSING = 404
_REFUSED = (401, 403)
_SLIPS = (0, 500, 502, 504)
_SLIP_PAUSE = 0.3
_ACCEPT = ", ".join(oci_image.ACCEPTED)
_ACCEPT_SIGNATURES = f"{oci_image.OCI_MANIFEST}, {oci_image.DOCKER_MANIFEST}"

_Taken = TypeVar("_Taken")
_Check = Callable[[bytes, Mapping[str, str]], _Taken]
"""Turns a body and its headers into what is wanted; DamagedFailure sends us to the next host."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A document to ask for."""

    what: str
    path: Callable[[RegistryHost], str]
    accept: str
    limit: int = oci_image.MAX_DOCUMENT
    optional: bool = False
    """Whether a host may lack it and still be as trustworthy as the others."""


class BlobResponse:
    """A blob, or a part of it, on its way; `close` it in any case."""

    def __init__(
        self, response: aiohttp.ClientResponse, start: int, end: int | None, total: int | None
    ) -> None:
        self._response = response
        self.start = start
        """Where it begins in the blob: 0 when the host ignored the range."""
        self.end = end
        """Where it ends (exclusive), as far as the host said so."""
        self.total = total
        """Bytes of the whole blob, as far as the host said so."""
        units = response.headers.get("Accept-Ranges", "").lower()
        self.accepts_ranges = response.status == 206 or "bytes" in units
        """Whether the host said that it serves ranges."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes as they come. HostFailure when the connection breaks or brings more than was said."""
        done = self.start
        stream = self._response.content
        while True:
            try:
                chunk = await stream.readany()
            except Exception as error:
                raise translated(error) from error
            if not chunk:
                return
            done += len(chunk)
            if self.end is not None and done > self.end:
                raise HostFailure(self._response.status, "sent more bytes than announced")
            yield chunk

    def close(self) -> None:
        """Let go of the connection; one that has brought all is kept for the next request."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class RegistryClient:
    """All requests of one pull; an async context manager."""

    def __init__(self, pull: Pull, pool: HostPool) -> None:
        self._pull = pull
        self._pool = pool
        self._connections = Connections(pool, pull.terms.transfer)
        self._authorizer = Authorizer(self._connections)
        self._failed: set[str] = set()
        self.registry = pull.name.partition("/")[0]
        """The registry that the image's name means, whoever serves it."""

    async def __aenter__(self) -> Self:
        await self._connections.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.__aexit__(kind, error, trace)

    async def resolve(self) -> FoundImage:
        """The manifest for the pull's platform, its config, its layers, and signatures if they are wanted.

        A digest decides where there is one beside a tag.
        """
        pull = self._pull
        wanted = wire_platform(pull.platform)
        data, document = await self._manifest(pull.digest or pull.tag)
        top_digest = digest_of(data, pull.digest or "sha256")
        indexes: list[bytes] = []
        for _ in range(_MAX_INDEX_DEPTH):
            if isinstance(document, oci_image.Manifest):
                config = await self._small_blob(document.config, "config")
                image = image_of(document, ImageDocuments(config, data), top_digest, pull.platform)
                signatures = await self.signatures(top_digest) if pull.signatures else ()
                return replace(image, signatures=signatures, indexes=tuple(indexes))
            indexes.append(data)
            entry = oci_image.choose_manifest(document, wanted, f"manifest {digest_of(data)} of {pull.name}")
            data, document = await self._manifest(entry.digest)
            if len(data) != entry.size:
                raise Broken(f"manifest {entry.digest} has {len(data)} bytes, its index says {entry.size}")
        raise Broken(f"manifest of {pull.name} is an index of indexes, nested too deep")

    def blob_hosts(self) -> Sequence[RegistryHost]:
        """Those that may be asked for blobs, best first: who failed to give a manifest comes after the
        others, and whoever is away last."""
        hosts = [host for host in self._pull.hosts if host.pulls]
        return self._pool.dead_last(sorted(hosts, key=lambda host: host.url in self._failed))

    async def open_blob(self, host: RegistryHost, digest: str, start: int, end: int | None) -> BlobResponse:
        """Ask one host for the bytes from `start` to `end` (exclusive; None: all that follow).

        HostFailure when it does not give them, or gives others than those from `start` on.
        """
        whole = start == 0 and end is None
        asked = f"bytes={start}-{'' if end is None else end - 1}"
        path = registry.blob_path(host.repository, digest)
        response = await self._get(host, path, () if whole else (("Range", asked),))
        if response.status == 200:
            total = response.content_length
            return BlobResponse(response, 0, total, total)
        told = registry.parse_content_range(response.headers.get("Content-Range", ""))
        if told is None or told[0] != start or (end is not None and told[1] > end):
            text = f"sent another range than {asked}: {response.headers.get('Content-Range', '')[:100]!r}"
            response.close()
            raise HostFailure(response.status, registry.printable(text))
        return BlobResponse(response, *told)

    def mark_dead(self, host: RegistryHost) -> None:
        """It brings nothing, or too little: it is asked last for a while, by other pulls too."""
        self._connections.mark_dead(host)

    async def signatures(self, digest: str) -> tuple[Signature, ...]:
        """What cosign has pushed beside the manifest of this digest, not verified; may be nothing."""
        pull = self._pull
        tag = f"{digest.replace(':', '-')}.sig"
        what = f"signatures {tag} of {pull.name}"

        def check(data: bytes, headers: Mapping[str, str]) -> tuple[tuple[oci_image.Descriptor, str], ...]:
            _check_digest(data, tag, headers)
            return _well_formed(lambda: oci_image.parse_signatures(data, what))

        wanted = _Wanted(f"signatures {tag}", _manifest_of(tag), _ACCEPT_SIGNATURES, optional=True)
        try:
            entries = await self._from_any(self._hosts(resolving=True), wanted, check)
        except NotFound:
            return ()
        payloads = [await self._small_blob(entry, "signature") for entry, _ in entries]
        return tuple(
            Signature(payload, signature) for payload, (_, signature) in zip(payloads, entries, strict=True)
        )

    def failure(self, what: str, failures: list[tuple[RegistryHost, HostFailure]]) -> CribError:
        """The one error for all that was tried; what the registry itself said decides its kind."""
        tried = "; ".join(
            dict.fromkeys(f"{host_name(host)}: {_without_secrets(host, str(one))}" for host, one in failures)
        )
        text = f"{what} of {self._pull.name} could not be pulled ({tried or 'no host may be asked for it'})"
        if not failures:
            return Unavailable(text)
        order = {host.url: number for number, host in enumerate(self._pull.hosts)}
        # Where no host is called the origin, the last one stands for it.
        _, deciding = max(failures[::-1], key=lambda entry: (entry[0].is_origin, order.get(entry[0].url, -1)))
        if isinstance(deciding, DamagedFailure):
            return Broken(text)
        if deciding.status == _MISSING:
            return NotFound(text)
        if deciding.status in _REFUSED:
            # Neither NotFound, as nobody may know that, nor RegistryUnavailable, which the kubelet shows as
            # a registry that is down: the text alone says what to mend, and a later try may succeed.
            return Unavailable(f"{text}: credentials are refused, or the repository does not exist")
        return Unavailable(text, reason=REGISTRY_UNAVAILABLE)

    def _hosts(self, *, resolving: bool) -> Sequence[RegistryHost]:
        if not resolving:
            return self.blob_hosts()
        return self._pool.dead_last([host for host in self._pull.hosts if host.resolves])

    async def _manifest(self, reference: str) -> tuple[bytes, oci_image.Manifest | oci_image.Index]:
        by_digest = is_digest(reference)

        def check(
            data: bytes, headers: Mapping[str, str]
        ) -> tuple[bytes, oci_image.Manifest | oci_image.Index]:
            _check_digest(data, reference, headers)
            media_type = headers.get("Content-Type", "").partition(";")[0].strip()
            what = f"manifest {digest_of(data)} of {self._pull.name}"
            if by_digest:
                # Every host has the same bytes.
                return data, oci_image.parse_manifest(data, media_type, what)
            return data, _well_formed(lambda: oci_image.parse_manifest(data, media_type, what))

        wanted = _Wanted(f"manifest {reference}", _manifest_of(reference), _ACCEPT)
        return await self._from_any(self._hosts(resolving=not by_digest), wanted, check)

    async def _small_blob(self, descriptor: oci_image.Descriptor, what: str) -> bytes:
        def path(host: RegistryHost) -> str:
            return registry.blob_path(host.repository, descriptor.digest)

        def check(data: bytes, headers: Mapping[str, str]) -> bytes:
            digest = digest_of(data, descriptor.digest)
            if digest != descriptor.digest or len(data) != descriptor.size:
                raise DamagedFailure(200, f"sent {len(data)} bytes of digest {digest}")
            return data

        wanted = _Wanted(f"{what} {descriptor.digest}", path, "*/*", descriptor.size)
        return await self._from_any(self.blob_hosts(), wanted, check)

    async def _from_any(
        self, hosts: Sequence[RegistryHost], wanted: _Wanted, check: _Check[_Taken]
    ) -> _Taken:
        """What the first host gives that passes the check; a slip is forgiven once, when all have failed."""
        failures: list[tuple[RegistryHost, HostFailure]] = []
        for turn in range(2):
            for host in hosts:
                try:
                    return await self._from(host, wanted, check)
                except HostFailure as failure:
                    failures.append((host, failure))
                    if not wanted.optional:
                        self._failed.add(host.url)
            hosts = [host for host, failure in failures if self._passing(host, failure)]
            if turn == 0 and hosts:
                await self._pool.sleep(_SLIP_PAUSE)
        raise self.failure(wanted.what, failures)

    async def _from(self, host: RegistryHost, wanted: _Wanted, check: _Check[_Taken]) -> _Taken:
        response = await self._get(host, wanted.path(host), (("Accept", wanted.accept),))
        data = await self._connections.read(response, wanted.limit)
        return check(data, response.headers)

    def _passing(self, host: RegistryHost, failure: HostFailure) -> bool:
        """Whether a host that answers may do better in a moment: a server behind it was restarted, say."""
        slip = failure.status in _SLIPS and not isinstance(failure, DamagedFailure)
        return slip and not self._pool.is_dead(host)

    async def _get(
        self, host: RegistryHost, path: str, headers: tuple[tuple[str, str], ...]
    ) -> aiohttp.ClientResponse:
        """A response of status 200 or 206; HostFailure otherwise."""
        url = host.url.rstrip("/") + path
        if host.namespace:
            url += f"?{urlencode({'ns': host.namespace})}"
        sent = await self._authorizer.header(host)
        response = await self._connections.send(host, HttpRequest(url, headers, sent))
        if response.status == 401 and _comes_from(host, response):
            try:
                answer = await self._authorizer.answer(host, response, sent)
            except HostFailure:
                response.close()
                raise
            if answer:
                response.release()
                response = await self._connections.send(host, HttpRequest(url, headers, answer))
        if response.status in (200, 206):
            return response
        failure = await self._connections.refusal(response)
        if failure.status in _REFUSED:
            raise HostFailure(failure.status, f"{failure} ({refusal(host.credential)})")
        raise failure


def _comes_from(host: RegistryHost, response: aiohttp.ClientResponse) -> bool:
    """Whether it is the host's own answer: another one, where a redirect led to, may ask for nothing."""
    return response.url.origin() == address(host.url).origin()


def _manifest_of(reference: str) -> Callable[[RegistryHost], str]:
    return lambda host: registry.manifest_path(host.repository, reference)


def _well_formed(parse: Callable[[], _Taken]) -> _Taken:
    """A tag may mean a page of a proxy in between at one host and an image at the next."""
    try:
        return parse()
    except oci_image.ImageFormatError as error:
        raise DamagedFailure(200, str(error)) from error


def _check_digest(data: bytes, reference: str, headers: Mapping[str, str]) -> None:
    told = headers.get("Docker-Content-Digest", "")
    if is_digest(reference) and (digest := digest_of(data, reference)) != reference:
        raise DamagedFailure(200, f"sent a manifest of digest {digest} for {reference}")
    if is_digest(told) and (digest := digest_of(data, told)) != told:
        raise DamagedFailure(200, f"sent a manifest of digest {digest} and said {told}")


def _without_secrets(host: RegistryHost, text: str) -> str:
    """A server may repeat in its error what it was shown."""
    credential = host.credential
    for secret in (credential.password, credential.identity_token, credential.registry_token):
        if secret:
            text = text.replace(secret, "…")
    return text
