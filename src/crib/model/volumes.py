"""Volumes that the daemon keeps for pods without a kubelet. Sizes are bytes, times nanoseconds of the epoch.

A volume has a name in a namespace, as a PersistentVolumeClaim has, and a kind, which says what it is made of.
Its record comes before any work on it. What lies on the host derives from its id (`VolumePaths`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from crib.model.ids import Digest, ImageId
from crib.model.paths import Paths

VolumeId = NewType("VolumeId", str)
"""32 hex digits."""
SnapshotId = NewType("SnapshotId", str)
"""32 hex digits."""

MAX_VOLUMES = 10_000
"""Volumes of one node; each is a row."""
MAX_USES = 1_000
"""Uses of one volume at once: they are kept in its row."""
MAX_SNAPSHOTS = 10_000
"""Snapshots of one node."""
MAX_ENTRIES = 256
"""Parameters, labels, mount options or secrets of one volume, of each."""
MAX_TEXT = 4096
"""Characters of one parameter, label, option or path."""
MAX_WANTED = 256
"""Volumes that one pod publishes in a call."""
SECRET_LIMIT = 1 << 20
"""Bytes of one secret's file."""
LOCAL, TMPFS, IMAGE, BLOCK, CSI = "local", "tmpfs", "image", "block", "csi"
"""The built-in kinds."""

_ID = re.compile(r"[0-9a-f]{32}")


def new_volume_id() -> VolumeId:
    return VolumeId(secrets.token_hex(16))


def new_snapshot_id() -> SnapshotId:
    return SnapshotId(secrets.token_hex(16))


def is_volume_id(text: str) -> bool:
    """Whether the text can be the id of a volume or a snapshot."""
    return _ID.fullmatch(text) is not None


class AccessMode(StrEnum):
    """Who may use a volume at the same time (core/v1 PersistentVolumeAccessMode)."""

    READ_WRITE_ONCE = "ReadWriteOnce"
    """Pods of one node: here all of them."""
    READ_ONLY_MANY = "ReadOnlyMany"
    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE_POD = "ReadWriteOncePod"
    """One pod."""


class Reclaim(StrEnum):
    """What becomes of a volume when nobody needs it any more."""

    DELETE = "Delete"
    """It goes with the pod that owns it, and `prune` may take it."""
    RETAIN = "Retain"
    """Only who names it removes it."""


@dataclass(frozen=True, slots=True)
class VolumeDescription:
    """What an archive says of the volume that it was made of. Nobody vouches for it."""

    name: str = ""
    kind: str = ""
    storage_class: str = ""
    driver: str = ""
    capacity: int = 0
    access_modes: tuple[AccessMode, ...] = ()
    fs_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


class VolumeState(StrEnum):
    """A row in CREATING or REMOVING is hidden from pods, and is a leftover if nobody works on it."""

    CREATING = "creating"
    READY = "ready"
    REMOVING = "removing"


class StageState(StrEnum):
    """What was done once for all pods of a volume, such as mount its file system (CSI NodeStageVolume)."""

    UNSTAGED = "unstaged"
    STAGING = "staging"
    STAGED = "staged"
    UNSTAGING = "unstaging"


class UseState(StrEnum):
    """What was done for one pod (CSI NodePublishVolume)."""

    PUBLISHING = "publishing"
    PUBLISHED = "published"
    UNPUBLISHING = "unpublishing"


class SnapshotState(StrEnum):
    CREATING = "creating"
    READY = "ready"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True, order=True)
class VolumeName:
    """As a person calls it: NAMESPACE/NAME."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What was asked for. It never changes, but for `capacity`, which a resize raises."""

    kind: str
    storage_class: str = ""
    """Of `[volumes.classes]`, which gave the kind and parameters; empty: none did."""
    driver: str = ""
    """Name of the CSI driver, with the kind `csi` only."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What the kind, or its driver, is told when it makes the volume."""
    source: str = ""
    """What is there already: the image of a volume of kind `image`, the absolute path of the file or device
    of kind `block`, the driver's own handle of kind `csi`. Removing the volume leaves it alone."""
    snapshot: str = ""
    """Id of the snapshot that it begins as; empty: it begins empty."""
    clone_of: str = ""
    """Id of the volume that it begins as, which may be gone by now; empty: of none."""
    capacity: int = 0
    """At least as many bytes; 0: it does not matter. Where the kind can, this is also the limit."""
    access_modes: tuple[AccessMode, ...] = (AccessMode.READ_WRITE_ONCE,)
    """Any of them suffices."""
    block: bool = False
    """Pods get a device instead of a directory (`volumeMode: Block`)."""
    fs_type: str = ""
    """File system; empty: the kind's own choice."""
    mount_options: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """By key, the absolute path of the file with the value. It is read for each call, never recorded."""
    owner: str = ""
    """Uid of the pod that it goes with; empty: it outlives pods."""
    inline: bool = False
    """A CSI ephemeral inline volume: the driver makes it when it is published and nothing else is done."""
    reclaim: Reclaim = Reclaim.DELETE


@dataclass(frozen=True, slots=True)
class PodOfUse:
    """The pod that uses a volume."""

    uid: str
    namespace: str
    name: str
    files: str = ""
    """Absolute path of the pod's files: when it is gone, so is the pod. Empty: not known."""
    service_account: str = ""
    fs_group: int | None = None
    """Group that the files of volumes are to belong to (core/v1 PodSecurityContext.fsGroup)."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """One pod's use of a volume under one name."""

    pod: PodOfUse
    volume: str
    """Its name in the pod (core/v1 Volume.name)."""
    read_only: bool = False
    state: UseState = UseState.PUBLISHING
    since: int = 0
    path: str = ""
    """What containers get, on the host: a directory, or with `block` a device. Set while PUBLISHED."""
    problem: str = ""
    """Why it is not as it should be."""

    @property
    def key(self) -> str:
        """Names it in paths: short and the same each time, for drivers need take no path over 128 bytes."""
        return use_key(self.pod.uid, self.volume)


def use_key(uid: str, volume: str) -> str:
    """16 hex digits for a pod's use of a volume."""
    return hashlib.sha256(f"{uid}/{volume}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume's row."""

    id: VolumeId
    name: VolumeName
    spec: VolumeSpec
    state: VolumeState
    created_at: int
    handle: str = ""
    """What its maker calls it: a CSI driver's volume_id; of other kinds the kind's own."""
    context: Mapping[str, str] = field(default_factory=dict)
    """What its maker wants to be told each time (CSI volume_context)."""
    capacity: int = 0
    """Bytes that it has; 0: as many as its place has."""
    stage: StageState = StageState.UNSTAGED
    attachment: Mapping[str, str] = field(default_factory=dict)
    """What staging and publishing want to be told (CSI publish_context); set while it is staged."""
    uses: tuple[VolumeUse, ...] = ()
    image_id: ImageId | None = None
    """Of kind `image`: the image as it was when the volume was made: a tag may move, this may not."""
    layers: tuple[Digest, ...] = ()
    """Its diff ids, lowest first; they are kept as long as this record is."""
    boot_id: str = ""
    """The boot in which it was last staged or published: in another one nothing of that is there."""
    problem: str = ""
    """Why it is not as it should be."""

    def use(self, uid: str, volume: str) -> VolumeUse | None:
        """The use of a pod under a name."""
        return next((one for one in self.uses if one.pod.uid == uid and one.volume == volume), None)

    def uses_of(self, uid: str) -> tuple[VolumeUse, ...]:
        """All uses of a pod."""
        return tuple(one for one in self.uses if one.pod.uid == uid)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A volume as it was at a moment."""

    id: SnapshotId
    name: VolumeName
    volume: VolumeId
    """It may be gone by now."""
    volume_name: str
    """NAME of the volume, in the same namespace."""
    spec: VolumeSpec
    """The volume's, as it was: what is restored is of the same kind, by the same driver."""
    state: SnapshotState
    created_at: int
    handle: str = ""
    """What its maker calls it (CSI snapshot_id)."""
    size: int = 0
    """Bytes that a volume needs to be restored from it; 0: not known."""
    usable: bool = False
    """Its maker has finished it (CSI ready_to_use)."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """How full a volume is; None: the kind, or its driver, does not tell."""

    total: int | None = None
    available: int | None = None
    used: int | None = None
    inodes: int | None = None
    inodes_free: int | None = None
    inodes_used: int | None = None
    problem: str = ""
    """What is wrong with it, in the words of the kind or driver (CSI VolumeCondition)."""


@dataclass(frozen=True, slots=True)
class VolumePaths:
    """Every path of one volume.

    DATA/volumes/ID            what lasts, as the kind wants it: `data`, `file`
    DATA/snapshots/ID          the same of a snapshot
    STATE/volumes/ID/stage     mounted or filled once for all pods, in this boot
    STATE/volumes/ID/pods/KEY  mounted for one pod, in this boot; `key` of its use
    """

    paths: Paths
    volume: VolumeId

    @property
    def lasting(self) -> str:
        return f"{self.paths.volumes}/{self.volume}"

    @property
    def data(self) -> str:
        """The directory that holds the files of a volume which is a directory."""
        return f"{self.lasting}/data"

    @property
    def file(self) -> str:
        """The file of a volume that is a file."""
        return f"{self.lasting}/file"

    @property
    def passing(self) -> str:
        return f"{self.paths.volume_mounts}/{self.volume}"

    @property
    def stage(self) -> str:
        return f"{self.passing}/stage"

    @property
    def pods(self) -> str:
        return f"{self.passing}/pods"

    def published(self, use: VolumeUse) -> str:
        """Where a use of it is mounted, by kinds that mount for each."""
        return f"{self.pods}/{use.key}"


def snapshot_path(paths: Paths, snapshot: SnapshotId) -> str:
    """The directory of a snapshot that is kept here."""
    return f"{paths.volume_snapshots}/{snapshot}"
