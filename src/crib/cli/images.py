"""`crib pull`, `crib import`, `crib rmi`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crib.cli import progress
from crib.cli.output import short_id
from crib.cli.session import CommandError, say
from crib.client import ClientError, images

if TYPE_CHECKING:
    from crib.cli.options import ImportOptions, PullOptions, RmiOptions
    from crib.cli.session import Session


async def pull(session: Session, options: PullOptions) -> None:
    """Pull each image in turn; its id goes to standard output."""
    async with session.connect() as connection:
        for name in options.images:
            print(await progress.pull(connection, name), flush=True)


async def import_archive(session: Session, options: ImportOptions) -> None:
    """Import an archive; a line for each image goes to standard output: its id and its names."""
    path = os.path.abspath(options.path)
    if not os.path.exists(path):
        raise CommandError(f"there is no archive {path}")
    async with session.connect() as connection:
        brought = await progress.import_archive(connection, path, options.names or [])
    if not brought:
        raise CommandError(f"{path} brought no image")
    for image in brought:
        print(image.image_id, *image.names, flush=True)


async def remove(session: Session, options: RmiOptions) -> None:
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
                print(f"removed {name} ({short_id(image.id)})", flush=True)
    if failed:
        raise CommandError(f"{failed} of {len(options.images)} images could not be removed")
