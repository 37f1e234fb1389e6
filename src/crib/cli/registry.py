"""`crib registry explain`: who would be asked for an image, with what, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.options import Format
from crib.cli.output import as_dict, clean, document, table
from crib.client import images

if TYPE_CHECKING:
    from crib.cli.options import ExplainOptions
    from crib.cli.session import CliSession
    from crib.stubs.node.v1.node_pb2 import RegistryHost

_COLUMNS = ("#", "HOST", "REPOSITORY", "ASKED FOR", "CREDENTIAL", "TLS", "TIMEOUT", "WHY")


async def explain(session: CliSession, options: ExplainOptions) -> None:
    """Show the hosts in their order; NotOffered from runtimes without crib's Node service."""
    async with session.connect() as connection:
        reply = await images.explain(connection, options.image)
    if options.output is not Format.TABLE:
        document(as_dict(reply), options.output)
        return
    print(f"image {clean(reply.image)}")
    print(f"policy {clean(reply.policy) or 'none'}")
    table(_COLUMNS, [(str(number), *_row(host)) for number, host in enumerate(reply.hosts, 1)])
    for number, host in enumerate(reply.hosts, 1):
        if host.headers:
            print(f"{number} is also sent the headers {clean(', '.join(host.headers))}")


def _row(host: RegistryHost) -> tuple[str, ...]:
    asked = [word for word, is_asked in (("tags", host.resolves), ("digests", host.pulls)) if is_asked]
    return (
        host.url,
        host.repository,
        ", ".join(asked) or "nothing",
        _credential(host),
        tls(host),
        f"{host.connect_timeout:g} s",
        host.reason or ("the registry itself" if host.origin else "-"),
    )


def _credential(host: RegistryHost) -> str:
    if not host.credential:
        return "anonymous"
    return f"{host.username}, {host.credential}" if host.username else host.credential


def tls(host: RegistryHost) -> str:
    """What is special of the connection: no TLS, not verified, own authorities, client certificates."""
    if host.url.startswith("http://"):
        return "none"
    notes = ["not verified"] if host.skip_verify else []
    if host.authorities:
        notes.append(_count(host.authorities, "CA of its own", "CAs of its own"))
    if host.client_certificates:
        notes.append(_count(host.client_certificates, "client certificate", "client certificates"))
    return ", ".join(notes) or "verified"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
