"""The kinds of volumes, by what `volumes.classes.NAME.kind` calls them. One more is a row of `KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.backends.environment import SharedLayers
from crib.backends.volumes.archives import VolumeArchiver
from crib.backends.volumes.block import BlockVolumes
from crib.backends.volumes.ground import HostGround
from crib.backends.volumes.image import ImageVolumes
from crib.backends.volumes.local import LocalVolumes
from crib.backends.volumes.tmpfs import TmpfsVolumes
from crib.model.driver_status import DriverFigures, DriverStatus
from crib.model.paths import Paths
from crib.model.volume_settings import VolumeSettings
from crib.model.volumes import BLOCK, CSI, IMAGE, LOCAL, TMPFS
from crib.ports.volumes import VolumeKind, VolumePorts

if TYPE_CHECKING:
    from crib.backends.volumes.csi.volumes import CsiVolumes


@dataclass(frozen=True, slots=True)
class VolumeOpening:
    """What a kind is opened with. Opening does nothing on the host."""

    paths: Paths
    settings: Callable[[], VolumeSettings]
    """Those that hold now: to be asked each time."""
    layers: SharedLayers
    min_free: int = 0
    """Bytes of the data directory's disk that copies leave free."""
    figures: DriverFigures = field(default_factory=DriverFigures)
    """Of calls of drivers."""
    label: str = ""
    """Of SELinux, for files that every container may read; empty: the node has no SELinux."""


def _open_csi(opening: VolumeOpening) -> CsiVolumes:
    from crib.backends.volumes.csi.volumes import CsiVolumes  # the messages of drivers take 2 MiB

    return CsiVolumes(opening.paths, lambda: opening.settings().drivers, opening.figures)


KINDS: Mapping[str, Callable[[VolumeOpening], VolumeKind]] = {
    LOCAL: lambda opening: LocalVolumes(opening.paths, opening.min_free),
    TMPFS: lambda opening: TmpfsVolumes(opening.paths),
    IMAGE: lambda opening: ImageVolumes(opening.paths, opening.layers, opening.label),
    BLOCK: lambda opening: BlockVolumes(opening.paths, opening.min_free),
    CSI: _open_csi,
}


class OpenKinds(Mapping[str, VolumeKind]):
    """Each is opened when it is first asked for: most nodes have volumes of one kind, or none."""

    def __init__(self, opening: VolumeOpening) -> None:
        self._opening = opening
        self._open: dict[str, VolumeKind] = {}

    def __getitem__(self, name: str) -> VolumeKind:
        if name not in self._open:
            self._open[name] = KINDS[name](self._opening)
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)


class OpenDrivers:
    """What is known of drivers; without any, the kind of theirs is not opened."""

    def __init__(self, opening: VolumeOpening) -> None:
        self._opening = opening
        self.figures = opening.figures

    async def statuses(self) -> Sequence[DriverStatus]:
        return await _open_csi(self._opening).drivers() if self._opening.settings().drivers else ()


def open_volumes(opening: VolumeOpening) -> VolumePorts:
    """All kinds, and what they share."""
    return VolumePorts(
        kinds=OpenKinds(opening),
        archives=VolumeArchiver(opening.paths.data, opening.min_free),
        ground=HostGround(opening.paths),
        drivers=OpenDrivers(opening),
    )
