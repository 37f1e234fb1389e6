"""The whole node: a check of everything, and its removal.

Only crib itself can do either: both raise NotOffered from a runtime without crib's Node service. Where no
daemon runs, `cribd --check` and `cribd --wipe` do the same and write the same messages as lines of JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.stubs.node.v1.node_pb2 import CheckNodeRequest, Finding, Wiped, WipeRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crib.client.connection import Connection

CHECK_TIMEOUT = 4 * 3600.0
"""Seconds that one check may take: it reads every layer of the node."""
WIPE_TIMEOUT = 3600.0
"""Seconds that one wipe may take."""
WIPE_KINDS = ("pods", "containers", "network", "images", "layers")
"""What a wipe can be of."""


def check(connection: Connection, *, repair: bool = False, quick: bool = False) -> AsyncIterator[Finding]:
    """What is wrong with the node, or worth telling; nothing for what is as it should be.

    With `repair` what can be mended is. `quick` only sees whether layers are there, without reading them.
    """
    request = CheckNodeRequest(repair=repair, quick=quick)
    return connection.stream(connection.node.CheckNode, request, CHECK_TIMEOUT)


def wipe(
    connection: Connection, kinds: Sequence[str], *, dry_run: bool = False, force: bool = False
) -> AsyncIterator[Wiped]:
    """Remove everything of these kinds (WIPE_KINDS), and tell each thing, or with `dry_run` tell only.

    WrongState while containers run, unless `force` says to end them. What could not be removed is told with
    its problem.
    """
    request = WipeRequest(kinds=kinds, dry_run=dry_run, force=force)
    return connection.stream(connection.node.Wipe, request, WIPE_TIMEOUT)


def is_left(found: Finding) -> bool:
    """Whether it is wrong, and was not mended."""
    return not (found.note or found.mended)
