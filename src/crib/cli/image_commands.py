"""The commands that list and remove images, and what nothing needs any more; and their help."""

from __future__ import annotations

import typer

from crib.cli.command import command
from crib.cli.image_options import ImagePruneOptions, ImagesOptions, PruneOptions, RmiOptions
from crib.cli.session import CliSession


def add_image_commands(app: typer.Typer, image: typer.Typer, panel: str) -> None:
    """Register them, to be listed under this heading; `image` is the group of that name."""
    command(app, ImagesOptions, panel)(images)
    command(app, RmiOptions, panel)(rmi)
    command(app, PruneOptions, panel)(prune)
    command(image, ImagesOptions, panel, name="ls")(images)
    command(image, RmiOptions, panel, name="rm")(rmi)
    command(image, ImagePruneOptions, panel, name="prune")(image_prune)


def images(session: CliSession, options: ImagesOptions) -> None:
    """List images.

    crib images --filter reference='*/web:*' -q
    """
    from crib.cli import image_listing

    session.run(image_listing.images(session, options))


def rmi(session: CliSession, options: RmiOptions) -> None:
    """Remove images, each under all of its names.

    Refuses an image that a container uses, running or not, and says who uses it. With --force the name goes;
    the containers keep what they need of the image until they are removed.
    """
    from crib.cli import images as work

    session.run(work.remove(session, options))


def image_prune(session: CliSession, options: ImagePruneOptions) -> None:
    """Remove images that no container uses: those without a name, or with --all every one.

    Pinned images stay. Asks before it removes anything if it runs on a terminal.

    crib image prune -a --filter until=72h
    """
    from crib.cli import prune as work

    session.run(work.prune_images(session, options))


def prune(session: CliSession, options: PruneOptions) -> None:
    """Remove stopped pods, containers that later attempts have replaced, and unused images.

    A pod is stopped if its sandbox is, or if all of its containers have exited. Its logs and volumes of crib
    run go with it. Pods of a kubelet, pods that are kept up and pinned images stay. Asks before it removes
    anything if it runs on a terminal.
    """
    from crib.cli import prune as work

    session.run(work.prune(session, options))
