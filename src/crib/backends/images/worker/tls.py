"""TLS towards registries: whom to believe, and which certificates of our own to show."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Sequence

from crib.model.registry import ClientCertificate, RegistryHost


def tls_context(host: RegistryHost, certificates: Sequence[ClientCertificate]) -> ssl.SSLContext:
    """The system's authorities and the host's own; `certificates` are shown to whoever asks for one."""
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
