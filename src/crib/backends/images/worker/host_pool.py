"""What one worker process knows of hosts: tokens, certificates, who is away, and who is busy; and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from crib.backends.images.worker.places import Places
from crib.model.registry import ClientCertificate, RegistryHost
from crib.wire import registry

_MAX_DEAD = 1000
_MAX_CONTEXTS = 64
_EARLY = 5.0
"""Seconds before its end that a token is no longer used."""


@dataclass(slots=True)
class Grant:
    """What one host accepts for one repository, from the holder of one credential."""

    authorization: str = field(default="", repr=False)
    ends: float = float("inf")
    """On the monotonic clock."""
    challenge: registry.Challenge | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def usable(self) -> bool:
        """Whether it can be sent as it is."""
        return bool(self.authorization) and time.monotonic() < self.ends - _EARLY


class HostPool:
    """Shared by all pulls of the process."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self.grants: dict[str, Grant] = {}
        """By a key that does not give credentials away (`tokens`)."""
        self._dead: dict[str, float] = {}
        self._busy: dict[str, float] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.places = Places()

    def mark_dead(self, host: RegistryHost, seconds: float) -> None:
        """It is asked last for so long."""
        _remember(self._dead, host.url, self.clock(), seconds)

    def is_dead(self, host: RegistryHost) -> bool:
        """Whether it was not to be reached a short while ago."""
        return self._dead.get(host.url, 0.0) > self.clock()

    def dead_last(self, hosts: Sequence[RegistryHost]) -> list[RegistryHost]:
        """The same hosts, in the same order but for those that are away."""
        return sorted(hosts, key=self.is_dead)

    def hold(self, origin: str, seconds: float) -> None:
        """Nobody asks this origin before: it said that it is busy."""
        _remember(self._busy, origin, self.clock(), seconds)

    def held(self, origin: str) -> float:
        """Seconds until it may be asked again."""
        return max(self._busy.get(origin, 0.0) - self.clock(), 0.0)

    async def context(self, host: RegistryHost, *, own: bool) -> ssl.SSLContext:
        """TLS with `host` itself (`own`), or with one that it sends us to, which gets no client certificate.

        Whom to believe is taken along: who may redirect us anywhere gains nothing by it. OSError when a
        certificate or key cannot be read.
        """
        certificates = host.certificates if own else ()
        parts = (*host.authorities, "", *(f"{c.certificate}\0{c.key}" for c in certificates))
        key = hashlib.sha256("\1".join((str(host.skip_verify), *parts)).encode()).hexdigest()
        context = self._contexts.get(key)
        if context is None:
            # Reading the system's authorities takes some ten milliseconds.
            context = await asyncio.to_thread(tls_context, host, certificates)
            while len(self._contexts) >= _MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            self._contexts[key] = context
        return context


def _remember(times: dict[str, float], key: str, now: float, seconds: float) -> None:
    for old in [name for name, until in times.items() if until <= now]:
        del times[old]
    if seconds > 0 and len(times) < _MAX_DEAD:
        times[key] = max(times.get(key, 0.0), now + seconds)


def tls_context(host: RegistryHost, certificates: Sequence[ClientCertificate]) -> ssl.SSLContext:
    """The system's authorities and the host's own; `certificates` are shown to a server that asks for one."""
    context = ssl.create_default_context()
    for number, authority in enumerate(host.authorities, 1):
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise OSError(f"certificate authority {number} cannot be read: {error}") from error
    for number, one in enumerate(certificates, 1):
        try:
            _load_certificate(context, one)
        except (OSError, ValueError) as error:
            raise OSError(f"client certificate {number} cannot be read: {error}") from error
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_certificate(context: ssl.SSLContext, one: ClientCertificate) -> None:
    # OpenSSL's interface in Python takes file names only, and the worker may write to the staging directory
    # alone, where keys do not belong.
    with contextlib.ExitStack() as stack:
        paths = []
        for text in (one.certificate, one.key or one.certificate):
            fd = os.memfd_create("crib-client-certificate", os.MFD_CLOEXEC)
            stack.callback(os.close, fd)
            os.pwrite(fd, text.encode(), 0)
            paths.append(f"/proc/self/fd/{fd}")
        # A key that wants a pass phrase fails instead of asking the terminal.
        context.load_cert_chain(paths[0], paths[1], password=lambda: "")
