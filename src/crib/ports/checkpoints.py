"""Running containers written down, to be looked at or to go on elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from crib.model.container import ContainerRecord
from crib.model.ids import Digest

_LONGEST_NAME = 100
SUFFIX = ".tar"


def archive_name(container: str) -> str:
    """Of a container of a pod, in the directory of the pod's checkpoint. ValueError for a name that no file
    can have.
    """
    if not container or container.startswith(".") or "/" in container or len(container) > _LONGEST_NAME:
        raise ValueError(f"no archive can have the name of container {container!r}")
    return container + SUFFIX


@dataclass(frozen=True, slots=True)
class Packing:
    """What becomes an archive."""

    record: ContainerRecord
    location: str
    """Absolute path of the archive."""
    at: int
    """When the container was captured, in nanoseconds since the epoch."""
    seconds: float
    """That it may take."""


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """Where a checkpoint is that a container is to be made from."""

    path: str = ""
    """Of an archive."""
    layers: tuple[Digest, ...] = ()
    """Of a checkpoint image, whose root has what an archive has."""
    is_compared: bool = False
    """A container whose command, working directory, user or variables are other ones is refused."""


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What a checkpoint says of itself. Nobody vouches for it."""

    container: str
    """Name of the container."""
    images: tuple[str, ...]
    """How its image is called, the id first."""


class Checkpoints(Protocol):
    """The steps of a checkpoint, in this order; `discard` comes last, whatever happened.

    `inspect` comes before a `create` that has a source (`ports.containers`).
    """

    async def inspect(self, source: CheckpointSource) -> CheckpointFacts:
        """What it is of. InvalidRequest names `image.image` when it is no checkpoint or not sound."""
        ...

    async def pause(self, record: ContainerRecord) -> None:
        """Stop its processes where they are. What fails leaves it running."""
        ...

    async def capture(self, record: ContainerRecord) -> None:
        """Write down the memory and files of a paused container, on this node and for root only.

        It has ended when this returns or raises, except in a daemon that is about to end: to end it halfway
        would damage the container. WrongState where something in it cannot be written down.
        """
        ...

    async def resume(self, record: ContainerRecord) -> None:
        """Let its processes go on. One that is gone is fine."""
        ...

    async def pack(self, packing: Packing) -> None:
        """Make an archive of what was captured, under another name beside its location and for root only.

        It is on disk when this returns. InvalidRequest names `location`, TimedOut when its seconds are over.
        """
        ...

    async def publish(self, record: ContainerRecord, location: str) -> None:
        """Give the archive its name, in place of an earlier file of that name."""
        ...

    async def withdraw(self, location: str) -> None:
        """Remove an archive that has its name."""
        ...

    async def check_empty(self, directory: str) -> None:
        """InvalidRequest names `output_path` when it is no directory, or something is in it."""
        ...

    async def archives(self, directory: str) -> Mapping[str, str]:
        """The archives in a directory by the names of their containers (`archive_name`).

        InvalidRequest names `checkpoint_path` when it is no directory, or something else is in it.
        """
        ...

    async def discard(self, record: ContainerRecord, location: str) -> None:
        """Remove what was captured, and an archive that has not got its name; also for a checkpoint
        of an earlier daemon. The container goes on. Safe to repeat.
        """
        ...
