"""`crib pull`, `crib import`, `crib rmi`, `crib image export`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crib.cli import credentials, progress
from crib.cli.output import clean, short_id, size, tell
from crib.cli.session import CommandError, say
from crib.client import ClientError, images
from crib.client.errors import NotFound

if TYPE_CHECKING:
    from crib.cli.options import ExportOptions, ImportOptions, PullOptions, RmiOptions
    from crib.cli.session import CliSession


async def pull(session: CliSession, options: PullOptions) -> None:
    """Pull each image in turn, or follow one; its id goes to standard output."""
    if options.watch:
        await _watch(session, options)
        return
    if options.platform:
        _check_platform(options.platform)
    auth = credentials.read(options)
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
            raise CommandError(f"nobody is pulling {clean(name)} now") from None


def _check_platform(text: str) -> None:
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise CommandError(f"platform {clean(text)!r} is not OS/ARCH or OS/ARCH/VARIANT", 2)


async def import_archive(session: CliSession, options: ImportOptions) -> None:
    """Import an archive; a line for each image goes to standard output: its id and its names."""
    path = os.path.abspath(options.path)
    if not os.path.exists(path):
        raise CommandError(f"there is no archive {path}")
    async with session.connect() as connection:
        brought = await progress.import_archive(connection, path, options.names or [])
    if not brought:
        raise CommandError(f"{path} contains no image")
    for image in brought:
        tell(" ".join((image.image_id, *image.names)))


async def export(session: CliSession, options: ExportOptions) -> None:
    """Write images to a new archive; a line with its path and size goes to standard output."""
    path = os.path.abspath(options.path)
    if os.path.lexists(path):
        raise CommandError(f"{path} exists already; an export overwrites nothing")
    async with session.connect() as connection:
        names = [await images.full_name(connection, name) for name in options.images]
        written = await images.export(connection, path, names, options.format)
    many = f"{len(names)} images" if len(names) > 1 else options.images[0]
    tell(f"exported {many} to {path} ({size(written)})")


async def remove(session: CliSession, options: RmiOptions) -> None:
    """Remove each image; goes on after one that cannot be removed, and fails at the end."""
    failed = 0
    async with session.connect() as connection:
        for name in options.images:
            try:
                image = await images.resolve(connection, name)
                await images.remove(connection, image.id)
            except ClientError as error:
                if len(options.images) == 1:
                    raise
                say(f"crib: {error}")
                failed += 1
            else:
                tell(f"removed {name} ({short_id(image.id)})")
    if failed:
        raise CommandError(f"{failed} of {len(options.images)} images could not be removed")
