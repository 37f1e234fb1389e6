"""The commands for images and registries: pull, import, rmi, image check, image export, registry explain.

Credentials come from standard input only, because every process of the node can see arguments.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from crib.cli import progress
from crib.cli.forms import Format
from crib.cli.output import as_dict, clean, document, short_id, size, table, tell
from crib.cli.session import CommandError, say
from crib.client import ClientError, images, lookup
from crib.client.errors import NotFound, RuntimeFailure
from crib.client.image_use import image_users
from crib.stubs.node.v1.node_pb2 import CheckProgress
from crib.stubs.runtime.v1.api_pb2 import AuthConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.cli.image_options import RmiOptions
    from crib.cli.options import (
        CheckOptions,
        ExplainOptions,
        ExportOptions,
        ImportOptions,
        PullOptions,
    )
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.client.image_use import ImageUser, ImageUsers
    from crib.stubs.node.v1.node_pb2 import RegistryHost
    from crib.stubs.runtime.v1.api_pb2 import Image


async def pull(session: CliSession, options: PullOptions) -> None:
    """Pull each image in turn, or follow one; print its id."""
    if options.watch:
        await _watch(session, options)
        return
    if options.platform:
        _check_platform(options.platform)
    auth = credentials(options)
    async with session.connect() as connection:
        for name in options.images:
            print(await progress.pull(connection, name, auth, options.platform), flush=True)


async def _watch(session: CliSession, options: PullOptions) -> None:
    if options.platform or options.user or options.password_stdin or options.identity_token_stdin:
        raise CommandError("--watch starts no pull, so it takes no platform and no credentials", 2)
    if len(options.images) != 1:
        raise CommandError("--watch follows one pull: name exactly one image", 2)
    name = options.images[0]
    async with session.connect() as connection:
        try:
            print(await progress.watch(connection, name), flush=True)
        except NotFound:
            raise CommandError(f"no pull of {clean(name)} is in progress") from None


def _check_platform(text: str) -> None:
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise CommandError(f"platform {clean(text)!r} is not OS/ARCH or OS/ARCH/VARIANT", 2)


async def import_archive(session: CliSession, options: ImportOptions) -> None:
    """Import an archive; print a line for each image with its id and its names."""
    path = os.path.abspath(options.path)
    if not os.path.exists(path):
        raise CommandError(f"archive {path} does not exist")
    async with session.connect() as connection:
        brought = await progress.import_archive(connection, path, options.names or [])
    if not brought:
        raise CommandError(f"{path} contains no image")
    for image in brought:
        tell(" ".join((image.image_id, *image.names)))


async def export(session: CliSession, options: ExportOptions) -> None:
    """Write images to a new archive; print its path and size."""
    path = os.path.abspath(options.path)
    if os.path.lexists(path):
        raise CommandError(f"{path} exists; an export does not overwrite files")
    async with session.connect() as connection:
        names = [await images.full_name(connection, name) for name in options.images]
        written = await images.export(connection, path, names, options.format)
    many = f"{len(names)} images" if len(names) > 1 else options.images[0]
    tell(f"exported {many} to {path} ({size(written)})")


SHOWN_USERS = 5
"""Containers that are named as users of an image; of more only the number is told."""


async def remove(session: CliSession, options: RmiOptions) -> None:
    """Remove each image. Continues after one that cannot be removed, and fails at the end."""
    every = options.every or options.prune
    if bool(options.images) == every:
        raise CommandError("name the images to remove, or use --all", 2)
    failed = 0
    async with session.connect() as connection:
        users = await image_users(connection)
        names = options.images or [image.id for image in await _removable(connection, users, options.force)]
        for name in names:
            try:
                image = await images.resolve(connection, name)
                if not options.force:
                    _check_unused(name, users.of(image))
                await images.remove(connection, image.id)
            except ClientError as error:
                if len(names) == 1:
                    raise
                say(f"crib: {error}")
                failed += 1
            else:
                tell(f"removed {short_id(name) if name == image.id else name} ({short_id(image.id)})")
    if failed:
        raise CommandError(f"{failed} of {len(names)} images could not be removed")


async def _removable(connection: Connection, users: ImageUsers, force: bool) -> list[Image]:
    return [
        image
        for image in await images.list_images(connection)
        if not image.pinned and (force or not users.of(image))
    ]


def _check_unused(name: str, users: Sequence[ImageUser]) -> None:
    if not users:
        return
    shown = ", ".join(f"{user.label} ({lookup.state_of(user.container)})" for user in users[:SHOWN_USERS])
    more = f" and {len(users) - SHOWN_USERS} more" if len(users) > SHOWN_USERS else ""
    raise ClientError(f"image {name} is in use by {shown}{more}; remove those first, or use --force")


_MAX_SECRET = 64 << 10
"""Bytes; tokens of identity providers reach some KiB."""
_DEFAULT_REGISTRY = "docker.io"


def credentials(options: PullOptions) -> AuthConfig | None:
    """The credentials that the options ask for; None if there are none. CommandError says what is wrong."""
    wants_password = bool(options.user) or options.password_stdin
    if not (wants_password or options.identity_token_stdin):
        return None
    if wants_password and options.identity_token_stdin:
        raise CommandError("give a password or an identity token, not both", 2)
    if wants_password and not (options.user and options.password_stdin):
        raise CommandError("--user NAME and --password-stdin must be given together", 2)
    _check_one_registry(options.images)
    if options.identity_token_stdin:
        return AuthConfig(identity_token=_secret("identity token"))
    return AuthConfig(username=options.user, password=_secret(f"password of {options.user}"))


def _secret(what: str) -> str:
    if sys.stdin.isatty():
        import getpass

        text = getpass.getpass(f"{what}: ")
    else:
        try:
            text = sys.stdin.read(_MAX_SECRET + 1)
        except UnicodeDecodeError:
            raise CommandError(f"the {what} on standard input is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise CommandError(f"standard input has no {what}")
    if len(text) > _MAX_SECRET:
        raise CommandError(f"the {what} on standard input is longer than {_MAX_SECRET} characters")
    return text


def _check_one_registry(names: Sequence[str]) -> None:
    """The password for one registry must not be sent to another."""
    registries = {registry_of(name) for name in names}
    if len(registries) > 1:
        raise CommandError(f"credentials are for one registry, not for {' and '.join(sorted(registries))}", 2)


def registry_of(name: str) -> str:
    """The registry in an image's name (distribution's reference grammar, docker's short names)."""
    first, slash, _ = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else _DEFAULT_REGISTRY


async def check(session: CliSession, options: CheckOptions) -> int:
    """Show each damaged layer, then the totals. Returns 1 if damage remains, else 0.

    NotOffered from runtimes without crib's Node service.
    """
    found: list[CheckProgress] = []
    end: CheckProgress | None = None
    as_text = options.output is Format.TABLE
    async with session.connect() as connection:
        names = [await images.full_name(connection, name) for name in options.images or []]
        with progress.counter("layers checked") as counted:
            async for item in images.check(connection, names, repair=options.repair):
                if item.finished:
                    end = item
                    break
                counted()
                found.append(item)
                if as_text and item.problem:
                    print(layer_line(item), flush=True)
    if end is None:
        raise RuntimeFailure("the image check ended without a result")
    if as_text:
        print(check_summary(end, sum(item.repaired for item in found)), flush=True)
    else:
        layers = [as_dict(item) for item in found]
        document({"layers": layers, "checked": end.layers, "damaged": end.damaged}, options.output)
    return 1 if end.damaged else 0


def layer_line(item: CheckProgress) -> str:
    """One damaged layer: its diff id, the outcome, its images, what was wrong."""
    outcome = "repaired" if item.repaired else "damaged"
    line = f"{item.layer_digest}  {outcome}, of {', '.join(item.images) or 'no image'}: {item.problem}"
    return clean(f"{line}; not repaired: {item.repair_error}" if item.repair_error else line)


def check_summary(end: CheckProgress, repaired: int) -> str:
    """How many layers were checked, repaired and damaged."""
    layers = f"{end.layers} {'layer' if end.layers == 1 else 'layers'} checked"
    mended = f", {repaired} repaired" if repaired else ""
    if not end.damaged:
        return f"{layers}{mended}, none damaged"
    return f"{layers}{mended}, {end.damaged} damaged"


_HOST_COLUMNS = ("#", "HOST", "REPOSITORY", "ASKED FOR", "CREDENTIAL", "TLS", "TIMEOUT", "WHY")


async def explain(session: CliSession, options: ExplainOptions) -> None:
    """Show the hosts in their order; NotOffered from runtimes without crib's Node service."""
    async with session.connect() as connection:
        reply = await images.explain(connection, options.image)
    if options.output is not Format.TABLE:
        document(as_dict(reply), options.output)
        return
    print(f"image {clean(reply.image)}")
    print(f"policy {clean(reply.policy) or 'none'}")
    table(_HOST_COLUMNS, [(str(number), *_host_row(host)) for number, host in enumerate(reply.hosts, 1)])
    for number, host in enumerate(reply.hosts, 1):
        if host.headers:
            print(f"{number} is also sent the headers {clean(', '.join(host.headers))}")


def _host_row(host: RegistryHost) -> tuple[str, ...]:
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
    """How the connection is secured: no TLS, not verified, own authorities, client certificates."""
    if host.url.startswith("http://"):
        return "none"
    notes = ["not verified"] if host.skip_verify else []
    if host.authorities:
        notes.append(_counted(host.authorities, "CA of its own", "CAs of its own"))
    if host.client_certificates:
        notes.append(_counted(host.client_certificates, "client certificate", "client certificates"))
    return ", ".join(notes) or "verified"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
