"""`crib images`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.image_choice import choose
from crib.cli.output import as_dict, document, short_id, size, table, tell
from crib.cli.tables import Shortening, TableColumn

if TYPE_CHECKING:
    from crib.cli.image_options import ImagesOptions
    from crib.cli.session import CliSession


async def images(session: CliSession, options: ImagesOptions) -> None:
    """Images by name; one with several names has a row for each."""
    async with session.connect() as connection:
        found = await choose(connection, options.filters or (), options.repository)
    shown = (lambda text: text) if options.no_trunc else short_id
    if options.quiet:
        for image in found:
            tell(shown(image.id))
        return
    if options.output is not Format.TABLE:
        document([as_dict(image) for image in found], options.output)
        return
    rows = []
    for image in found:
        names = list(image.repo_tags) or [name.split("@")[0] for name in image.repo_digests] or ["<none>"]
        digests = {name.split("@")[0]: name.split("@")[-1] for name in image.repo_digests}
        for name in names:
            row = [name, shown(image.id), size(image.size), "yes" if image.pinned else ""]
            if options.digests:
                row.insert(1, digests.get(name.rpartition(":")[0], "-"))
            rows.append(row)
    columns = [
        TableColumn("NAME", Shortening.PATH),
        TableColumn("IMAGE", Shortening.NOTHING),
        TableColumn("SIZE", Shortening.NOTHING, rank=1),
        TableColumn("PINNED", Shortening.NOTHING, rank=2),
    ]
    if options.digests:
        columns.insert(1, TableColumn("DIGEST"))
    table(columns, rows)
