"""What volumes are made of: a kind each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from crib.model.driver_status import DriverFigures, DriverStatus
from crib.model.facts import Readiness
from crib.model.finding import Finding
from crib.model.volumes import (
    AccessMode,
    SnapshotRecord,
    VolumeDescription,
    VolumeId,
    VolumeRecord,
    VolumeSpec,
    VolumeUsage,
    VolumeUse,
)

ALL_MODES = frozenset(AccessMode)
"""What a kind can whose volumes are used on this node only."""


@dataclass(frozen=True, slots=True)
class KindFacts:
    """What a kind, or a driver, can do. The verbs refuse the rest by its name, before any work."""

    access_modes: frozenset[AccessMode] = ALL_MODES
    files: bool = True
    """Volumes that pods mount."""
    block: bool = False
    """Volumes that pods get as raw devices."""
    sizes: str = ""
    """Why it cannot hold a volume to its size; empty: it can."""
    lasting: bool = True
    """What it holds outlives a boot."""
    writable: bool = True
    expands: bool = False
    """`expand` works, also while pods use the volume."""
    snapshots: bool = False
    clones: bool = False
    """`clone` works. Where only `snapshots` do, a clone is made by way of one."""
    gives_group: bool = False
    """It gives the files to the pod's `fs_group` itself, and nobody else has to."""
    call_limit: float = 0.0
    """Seconds for one of its calls, where they may take longer than `volumes.timeout`; 0: that."""
    stages: bool = True
    """It has work to do once for all pods; otherwise `stage` and `unstage` are never called."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a kind made."""

    handle: str = ""
    """See VolumeRecord."""
    context: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 0
    """Bytes that it has; 0: as many as its place has."""


@dataclass(frozen=True, slots=True)
class MadeSnapshot:
    """A snapshot that a kind made."""

    handle: str = ""
    size: int = 0
    """Bytes that a volume needs to be restored from it; 0: not known."""
    usable: bool = True


class VolumeKind(Protocol):
    """One way to have volumes.

    The verbs record the intent before each call, hold the lock of the volume, and bound each call in time by
    `volumes.timeout`, `call_limit` or the driver's timeout: then they cancel it, and name the stage in the
    error. Every call may come again after it has succeeded, and after it was cut off at any point by a kill,
    a cancel or a failure: it then completes what is half done. What undoes counts as done what is not there.
    Paths come from `model.volumes.VolumePaths` alone. Failures are `CribError`s. No call blocks the event
    loop.
    """

    async def readiness(self, driver: str = "") -> Readiness:
        """Whether volumes can be had now, of this driver where the kind has drivers."""
        ...

    async def facts(self, spec: VolumeSpec) -> KindFacts:
        """What can be done with such a volume. Unavailable while a driver does not answer."""
        ...

    async def check_spec(self, spec: VolumeSpec) -> None:
        """Refuse what can never be made: InvalidRequest with the field, such as `parameters.size`."""
        ...

    async def create(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> Made:
        """Make it, from a snapshot if there is one. `record` is CREATING."""
        ...

    async def clone(self, record: VolumeRecord, source: VolumeRecord) -> Made:
        """Make it as the source is now, which pods may use meanwhile. `record` is CREATING."""
        ...

    async def delete(self, record: VolumeRecord) -> None:
        """Remove what `create` or `clone` made, and all that it holds. It is neither staged nor published.

        `record.handle` is empty if `create` was cut off: what it has made by then is found by the id.
        """
        ...

    async def stage(self, record: VolumeRecord) -> Mapping[str, str]:
        """Make it ready for pods of this node; what it answers becomes `record.attachment`."""
        ...

    async def unstage(self, record: VolumeRecord) -> None:
        """Undo that. No use of it is left."""
        ...

    async def publish(self, record: VolumeRecord, use: VolumeUse) -> str:
        """Give it to a pod; answers with the absolute path that containers mount, or of the device."""
        ...

    async def unpublish(self, record: VolumeRecord, use: VolumeUse) -> None: ...

    async def usage(self, record: VolumeRecord) -> VolumeUsage:
        """How full it is."""
        ...

    async def expand(self, record: VolumeRecord, capacity: int) -> int:
        """Give it at least that many bytes, whether it is staged or not; answers with what it has then."""
        ...

    async def snapshot(self, record: VolumeRecord, snapshot: SnapshotRecord) -> MadeSnapshot:
        """Keep the volume as it is now. `snapshot` is CREATING."""
        ...

    async def delete_snapshot(self, snapshot: SnapshotRecord) -> None: ...

    async def check(self, record: VolumeRecord) -> Sequence[Finding]:
        """What differs from what the record says; changes nothing. Findings have the area `volumes`."""
        ...


@dataclass(frozen=True, slots=True)
class VolumePorts:
    """What the node has for volumes."""

    kinds: Mapping[str, VolumeKind]
    archives: VolumeArchives
    ground: VolumeGround
    drivers: VolumeDrivers


class VolumeArchives(Protocol):
    """Files of a volume to and from a tar archive, or a raw device to and from a plain image."""

    async def write(self, directory: str, archive: str, description: VolumeDescription) -> int:
        """Write all below `directory` to a new file; its size. AlreadyExists if something is there.

        Owners, modes, times, links, sparse parts and extended attributes are kept; devices and sockets are
        left out. Where `directory` is a device, the new file is an image of it, without the description.
        """
        ...

    async def describe(self, archive: str) -> VolumeDescription | None:
        """What an archive says of its volume; None where it says nothing, or is a directory.

        InvalidRequest for what is no archive, or says what cannot be.
        """
        ...

    async def read(self, archive: str, directory: str) -> int:
        """Fill an empty directory from a tar archive or from another directory; bytes of files written.

        What is in it cannot lead out of `directory`, and makes no device. InvalidRequest for what is neither.
        Where `directory` is a device, the archive is an image.
        """
        ...


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something below the directories of volumes."""

    of: str
    """Id of the volume or snapshot that it is called by."""
    path: str
    lasts: bool
    """It is in the data directory; otherwise it is of this boot."""


class VolumeGround(Protocol):
    """What all kinds lie on: the directories of volumes, and what is mounted below them."""

    async def leftovers(self) -> Sequence[Leftover]:
        """All that is there. Whoever asks looks at the records afterwards: a row exists before its work."""
        ...

    async def tidy(self, volume: VolumeId) -> None:
        """Remove directories of this boot that a volume has no more use for: those that are empty."""
        ...

    async def clear(self, leftover: Leftover) -> None:
        """Unmount what is there of this boot, and remove it. What lasts is never removed by this."""
        ...

    async def gone(self, directories: Collection[str]) -> Collection[str]:
        """Those of these absolute paths that are certainly not there; no answer does not mean gone."""
        ...


class VolumeDrivers(Protocol):
    """The drivers that volumes of kind `csi` are made and mounted by."""

    @property
    def figures(self) -> DriverFigures:
        """What they were asked."""
        ...

    async def statuses(self) -> Sequence[DriverStatus]:
        """Each driver of the settings, asked now, by name. One that does not answer is told as not ready."""
        ...
