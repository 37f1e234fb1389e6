"""`crib image check`: are the layers on disk as they were written, and with --repair: make them so again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.cli import progress
from crib.cli.options import Format
from crib.cli.output import as_dict, clean, document
from crib.client import images
from crib.client.errors import RuntimeFailure
from crib.stubs.node.v1.node_pb2 import CheckProgress

if TYPE_CHECKING:
    from crib.cli.options import CheckOptions
    from crib.cli.session import CliSession


async def check(session: CliSession, options: CheckOptions) -> int:
    """Show each layer that is damaged, then how many there are; 1 when some are damaged still, else 0.

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
        print(summary_line(end, sum(item.repaired for item in found)), flush=True)
    else:
        layers = [as_dict(item) for item in found]
        document({"layers": layers, "checked": end.layers, "damaged": end.damaged}, options.output)
    return 1 if end.damaged else 0


def layer_line(item: CheckProgress) -> str:
    """One damaged layer: its diff id, what became of it, whose it is, what was wrong."""
    outcome = "repaired" if item.repaired else "damaged"
    line = f"{item.layer_digest}  {outcome}, of {', '.join(item.images) or 'no image'}: {item.problem}"
    return clean(f"{line}; not repaired: {item.repair_error}" if item.repair_error else line)


def summary_line(end: CheckProgress, repaired: int) -> str:
    """How many layers were looked at, and how they are now."""
    layers = f"{end.layers} {'layer' if end.layers == 1 else 'layers'} checked"
    mended = f", {repaired} repaired" if repaired else ""
    if not end.damaged:
        return f"{layers}{mended}, none damaged"
    return f"{layers}{mended}, {end.damaged} damaged"
