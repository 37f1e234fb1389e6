"""What plugins may be asked: the events of NRI with their numbers, the calls that carry them, older forms.

https://github.com/containerd/nri, pkg/api/api.proto: `Event`, and the calls of the service `Plugin`. A
plugin's mask has bit N-1 for the event of number N.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property


class Moment(IntEnum):
    """An event."""

    RUN_POD_SANDBOX = 1
    STOP_POD_SANDBOX = 2
    REMOVE_POD_SANDBOX = 3
    CREATE_CONTAINER = 4
    POST_CREATE_CONTAINER = 5
    START_CONTAINER = 6
    POST_START_CONTAINER = 7
    UPDATE_CONTAINER = 8
    POST_UPDATE_CONTAINER = 9
    STOP_CONTAINER = 10
    REMOVE_CONTAINER = 11
    UPDATE_POD_SANDBOX = 12
    POST_UPDATE_POD_SANDBOX = 13
    VALIDATE_CONTAINER_ADJUSTMENT = 14

    @cached_property
    def call(self) -> str:
        """The method of the service Plugin: `PostCreateContainer`."""
        return "".join(word.capitalize() for word in self.name.split("_"))

    @cached_property
    def bit(self) -> int:
        return 1 << (self - 1)


ALL = sum(moment.bit for moment in Moment)
"""The mask of a plugin that wants everything."""
WITHOUT_OLDER_FORM = frozenset(
    (
        Moment.CREATE_CONTAINER,
        Moment.UPDATE_CONTAINER,
        Moment.STOP_CONTAINER,
        Moment.UPDATE_POD_SANDBOX,
        Moment.VALIDATE_CONTAINER_ADJUSTMENT,
    )
)
"""Their answers say something. The other ones reach older plugins by the one call StateChange."""
REFUSABLE = frozenset(
    (
        Moment.RUN_POD_SANDBOX,
        Moment.UPDATE_POD_SANDBOX,
        Moment.CREATE_CONTAINER,
        Moment.START_CONTAINER,
        Moment.UPDATE_CONTAINER,
        Moment.VALIDATE_CONTAINER_ADJUSTMENT,
    )
)
"""A plugin's error ends these verbs, and plugins behind it are not asked. All plugins hear of the rest."""


def checked_mask(mask: int) -> int:
    """What an answer to Configure subscribes to; 0: everything. ValueError for events that do not exist."""
    mask &= 0xFFFFFFFF  # an int32 on the wire
    if extra := mask & ~ALL:
        raise ValueError(f"it subscribes to events that do not exist (0x{extra:x})")
    return mask or ALL


def subscribed(mask: int) -> Iterator[Moment]:
    """The events of a mask, by number."""
    return (moment for moment in Moment if mask & moment.bit)
