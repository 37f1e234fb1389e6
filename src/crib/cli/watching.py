"""`--watch`: a list again and again, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from crib.cli.colours import can_move

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from crib.cli.listing_options import PodsOptions, PsOptions
    from crib.cli.output import Listing

SECONDS = 2.0
"""Between two looks."""
_CLEAR = "\x1b[H\x1b[2J"
"""ECMA-48: CUP, ED."""


async def show(listing: Callable[[], Awaitable[Listing]], options: PodsOptions | PsOptions) -> None:
    """Show it once; or with --watch again: on a terminal in its place, elsewhere below what was there."""
    found = await listing()
    found.show(options.output, quiet=options.quiet)
    on_terminal = can_move(sys.stdout)
    while options.watch:
        await _pause()
        before, found = found, await listing()
        if on_terminal:
            sys.stdout.write(_CLEAR)
        if on_terminal or found.documents != before.documents:
            found.show(options.output, quiet=options.quiet)


async def _pause() -> None:
    await asyncio.sleep(SECONDS)
