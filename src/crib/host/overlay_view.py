"""Looking at stacked directories as one, without a mount that anybody else sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from crib.host import libc
from crib.host.mounts import Overlay, perform, set_propagation
from crib.host.threads import on_own_thread

T = TypeVar("T")


def look_through(lower: Sequence[str], target: str, look: Callable[[str], T]) -> T:
    """What `look` gives of the root of a read-only overlay of `lower`, the topmost first.

    The overlay is mounted over the directory `target`, in a mount namespace of a thread that ends with it.
    A single directory is looked at as it is. Blocks; raises OSError, and whatever `look` raises.
    """
    if len(lower) == 1:
        return look(lower[0])

    def inside() -> T:
        libc.unshare(libc.CLONE_NEWNS)
        set_propagation("/", "slave", recursive=True)
        perform(Overlay(target=target, lower=tuple(lower), read_only=True))
        return look(target)

    return on_own_thread(inside)
