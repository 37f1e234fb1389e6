"""What lies below the directories of volumes, whichever kind made it, and where pods' files are."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence

from crib.backends.failures import foreign, ours, trying
from crib.host import files, mounts
from crib.host.threads import Job
from crib.model.errors import CribError, InvalidRequest
from crib.model.paths import Paths
from crib.model.volumes import VolumeId, VolumePaths, is_volume_id
from crib.ports.volumes import Leftover

LIST_SECONDS = 30.0
CLEAR_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""For a look at one pod's files, which may be on any file system."""


class HostGround:
    """That of one daemon."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    async def leftovers(self) -> Sequence[Leftover]:
        paths, found = self._paths, []
        for place, lasts in (
            (paths.volumes, True),
            (paths.volume_snapshots, True),
            (paths.volume_mounts, False),
        ):
            what = f"listing {place}"
            with trying(what):
                names = await foreign(Job(what, place, LIST_SECONDS), _entries, place)
            found += [Leftover(name, f"{place}/{name}", lasts) for name in names]
        return found

    async def tidy(self, volume: VolumeId) -> None:
        paths = VolumePaths(self._paths, volume)
        what = f"removing empty directories of volume {volume}"
        with trying(what):
            await ours(
                Job(what, volume, CLEAR_SECONDS), _remove_empty, paths.stage, paths.pods, paths.passing
            )

    async def clear(self, leftover: Leftover) -> None:
        path = leftover.path
        if leftover.lasts or os.path.dirname(path) != self._paths.volume_mounts:
            raise InvalidRequest(f"{path} is not of this boot")
        what = f"removing {path}"
        with trying(what):
            await ours(Job(what, leftover.of, CLEAR_SECONDS), _clear, path)

    async def gone(self, directories: Collection[str]) -> Collection[str]:
        gone = set()
        for path in directories:
            what = f"looking for {path}"
            try:
                with trying(what):
                    if await foreign(Job(what, path, LOOK_SECONDS), _is_gone, path):
                        gone.add(path)
            except CribError:
                continue
        return gone


def _entries(place: str) -> list[str]:
    """What is called by an id: nothing else here is ours to judge."""
    try:
        return sorted(name for name in os.listdir(place) if is_volume_id(name))
    except FileNotFoundError:
        return []


def _remove_empty(*directories: str) -> None:
    for path in directories:
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EBUSY):
                raise


def _clear(path: str) -> None:
    mounts.unmount_tree(path)
    files.remove_tree(path)


def _is_gone(path: str) -> bool:
    """The directory above must be there: a disk that is not mounted must not make all pods look gone."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return os.path.isdir(os.path.dirname(path.rstrip("/")))
    return False
