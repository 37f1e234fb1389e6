"""The kinds of volumes, by what `volumes.classes.NAME.kind` calls them. One more is a row of `KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crib.backends.environment import SharedLayers
from crib.backends.volumes.ground import HostGround
from crib.backends.volumes.local import LocalVolumes
from crib.backends.volumes.tmpfs import TmpfsVolumes
from crib.model.errors import NotBuilt
from crib.model.paths import Paths
from crib.model.volume_settings import VolumeSettings
from crib.model.volumes import LOCAL, TMPFS
from crib.ports.volumes import VolumeKind, VolumePorts


@dataclass(frozen=True, slots=True)
class VolumeOpening:
    """What a kind is opened with. Opening does nothing on the host."""

    paths: Paths
    settings: Callable[[], VolumeSettings]
    """Those that hold now: to be asked each time."""
    layers: SharedLayers
    min_free: int = 0
    """Bytes of the data directory's disk that copies leave free."""


KINDS: Mapping[str, Callable[[VolumeOpening], VolumeKind]] = {
    LOCAL: lambda opening: LocalVolumes(opening.paths, opening.min_free),
    TMPFS: lambda opening: TmpfsVolumes(opening.paths),
}


class _NoArchives:
    async def write(self, directory: str, archive: str) -> int:
        raise NotBuilt("archives of volumes are not built yet")

    async def read(self, archive: str, directory: str) -> int:
        raise NotBuilt("archives of volumes are not built yet")


def open_volumes(opening: VolumeOpening) -> VolumePorts:
    """All kinds, and what they share."""
    kinds = {name: make(opening) for name, make in KINDS.items()}
    return VolumePorts(kinds, _NoArchives(), HostGround(opening.paths))
