"""TLS of the streaming server: files that may change at any time, or a certificate made here."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable

from crib.model.errors import Broken
from crib.model.settings import StreamingSettings

_log = logging.getLogger(__name__)

SELF_SIGNED_DAYS = 365
"""Of a certificate made here; the next one is made after half of them."""
_DAY = 86400
_Version = tuple[object, ...]
InThread = Callable[[str, Callable[[], None]], Awaitable[None]]
"""Runs what blocks, under a name for people; TimeoutError when it takes too long."""


class Certificates:
    """Contexts for new connections, with the certificate that is in force."""

    def __init__(self, settings: StreamingSettings, in_thread: InThread) -> None:
        """Broken when the files cannot be used."""
        self._settings = settings
        self._in_thread = in_thread
        self._tried = self._version()
        try:
            self._context = self._make()
        except OSError as error:
            raise Broken(f"streaming: the certificate cannot be used: {error}") from error

    async def context(self) -> ssl.SSLContext:
        """Of the files as they are now; when they cannot be used, the old ones stay in force."""
        settings = self._settings
        if settings.tls == "self-signed" and self._tried == _period():
            return self._context  # no file to look at
        try:
            await self._in_thread(f"looking at the certificate {settings.cert_file}", self._look)
        except TimeoutError as error:
            _log.warning("streaming: %s; the old one stays", error)
        return self._context

    def _look(self) -> None:
        now = self._version()
        if now != self._tried:
            self._tried = now
            try:
                self._context = self._make()
                _log.info("streaming: there is a new certificate")
            except OSError as error:
                _log.warning(
                    "streaming: the changed certificate cannot be used, the old one stays: %s", error
                )

    def _version(self) -> _Version:
        """Differs when there is something new to take."""
        settings = self._settings
        if settings.tls == "self-signed":
            return _period()
        files = filter(None, (settings.cert_file, settings.key_file, settings.client_ca_file))
        return tuple(map(_signature, files))

    def _make(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.client_ca_file:
            context.load_verify_locations(settings.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        if settings.tls == "files":
            # An encrypted key is an error: without a password the library would ask the terminal for one.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
            return context
        # The ssl module reads certificates from files only.
        with open(os.memfd_create("certificate"), "wb") as file:
            file.write(self_signed(settings.address))
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def _period() -> _Version:
    return (int(time.time() / (SELF_SIGNED_DAYS * _DAY / 2)),)


def _signature(path: str) -> _Version:
    """Differs when the file was written or replaced."""
    try:
        status = os.stat(path)
    except OSError as error:
        return (str(error),)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def self_signed(address: str) -> bytes:
    """A key and a certificate for the address, PEM. Imported here: most nodes never need it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crib streaming")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
