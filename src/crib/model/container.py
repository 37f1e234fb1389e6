"""The container: what CreateContainer asks for and what we keep of it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from crib.model.edits import ContainerEdits
from crib.model.ends import OomKill
from crib.model.ids import ContainerId, Digest, ImageId, SandboxId
from crib.model.sandbox import (
    IdMapping,
    NamespaceOptions,
    ProcessIdentity,
    Resources,
    SecurityProfile,
    SelinuxOption,
)

_TERMINATION_MESSAGE = "io.kubernetes.container.terminationMessagePath"


def termination_message_path(annotations: Mapping[str, str]) -> str:
    """Where in a container its kubelet puts the file for the termination message (kuberuntime, labels.go).

    The root where the container's annotations do not say.
    """
    return posixpath.normpath(f"/{annotations.get(_TERMINATION_MESSAGE, '').lstrip('/')}")


class MountPropagation(IntEnum):
    """CRI MountPropagation, same numbers."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


@dataclass(frozen=True, slots=True)
class Mount:
    """CRI Mount. Exactly one of `host_path` and `image` is set."""

    container_path: str
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    recursive_read_only: bool = False
    image: str = ""
    """An image volume: the reference that the client resolved (CRI ImageSpec.image)."""
    image_sub_path: str = ""
    mount_options: tuple[str, ...] = ()
    user_specified_image: str = ""
    """The name of the image volume as the pod has it."""


@dataclass(frozen=True, slots=True)
class Device:
    """CRI Device; `permissions` is a subset of `rwm` (cgroup v1 devices)."""

    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """CRI Capability: names without the `CAP_` prefix, upper case; `ALL` means every one."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    add_ambient: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSecurity:
    """CRI LinuxContainerSecurityContext."""

    capabilities: Capabilities = Capabilities()
    privileged: bool = False
    namespaces: NamespaceOptions = NamespaceOptions()
    selinux: SelinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: int = 0
    """0 Merge, 1 Strict (CRI SupplementalGroupsPolicy)."""
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """CRI ContainerConfig, validated. `log_path` is relative to the pod's log directory."""

    name: str
    image: str
    """The reference that the client resolved: an image id, a name or NAME@digest (CRI ImageSpec.image)."""
    attempt: int = 0
    user_specified_image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    envs: tuple[tuple[str, bytes], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    resources: Resources = Resources()
    security: ContainerSecurity = ContainerSecurity()
    cdi_devices: tuple[str, ...] = ()
    stop_signal: int = 0
    """Number of the CRI's Signal enum; 0 means the image's or SIGTERM."""


class ContainerState(StrEnum):
    """Where a container is in its life; `lifecycle` says which moves are legal."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class ContainerUser:
    """The identity that the first process got (CRI LinuxContainerUser)."""

    uid: int
    gid: int
    supplemental_groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageVolume:
    """The image of a mount, as it was when the container was made: a tag may move, this may not."""

    mount: int
    """Position in `ContainerConfig.mounts`."""
    image_id: ImageId
    layers: tuple[Digest, ...]
    """Diff ids, lowest first."""


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """All that is kept of a container; every path but the log's derives from `id` (see `paths`)."""

    id: ContainerId
    sandbox_id: SandboxId
    config: ContainerConfig
    state: ContainerState
    created_at: int
    image_id: ImageId
    image_ref: str
    """NAME@sha256:… of the image, or its id when it has no name (CRI ContainerStatus.image_ref)."""
    layers: tuple[Digest, ...]
    """Diff ids of the root's layers, lowest first."""
    log_path: str = ""
    """Absolute, or empty when the container keeps no log."""
    stop_signal: int = 15
    """The signal that StopContainer sends first: config, else image, else SIGTERM (signal(7))."""
    resources: Resources = Resources()
    """In force now: what was asked for at creation or in the last update."""
    user: ContainerUser | None = None
    process: ProcessIdentity | None = None
    """The container's first process. None before it is made, and where it is no process of this host."""
    monitor: ProcessIdentity | None = None
    """The process that holds the container's pipes, writes its log and reports its exit (conmon), if any."""
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image_volumes: tuple[ImageVolume, ...] = ()
    restored_from: str = ""
    """The checkpoint that it is made from: the path of an archive, or an image; empty: none."""
    checkpointing: str = ""
    """Path of the archive that its checkpoint is being written to: until that is over it may be paused."""
    abandoned: bool = False
    """Abandoned: its name is free, and it is removed as soon as possible."""
    edits: tuple[ContainerEdits, ...] = ()
    """What node plugins have changed in it when it was made."""

    @property
    def is_made(self) -> bool:
        """Whether its create has succeeded: then it is known who its first process is."""
        return self.user is not None

    @property
    def awaits_restore(self) -> bool:
        """Whether it has no process before its start, which restores them."""
        return bool(self.restored_from) and self.process is None and self.state is ContainerState.CREATED

    @property
    def held_layers(self) -> frozenset[Digest]:
        """The layers of the root and of all image volumes: kept as long as this record is."""
        return frozenset(self.layers).union(*(volume.layers for volume in self.image_volumes))

    @property
    def held_images(self) -> frozenset[ImageId]:
        """The images that those layers are of."""
        return frozenset((self.image_id, *(volume.image_id for volume in self.image_volumes)))


@dataclass(frozen=True, slots=True)
class ExecCommand:
    """A command run inside a container (CRI ExecSync). `timeout` is seconds, 0 for none."""

    argv: tuple[str, ...]
    timeout: float = 0
    output_limit: int = 16 << 20
    """Bytes kept of each of stdout and stderr (the CRI allows 16 MiB)."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command in a container gave."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """A container's first process has ended. `code` is 128+n after signal n."""

    id: ContainerId
    code: int
    at: int
    oom_killed: bool = False
    oom: OomKill | None = None
    """What is known of that."""
    lost: bool = False
    """The monitor died before it could report the exit: the code is not the program's (255, or 137 where what
    was left of the container was killed)."""
    why: str = ""
    """What is told of a lost one; empty: that its monitor died."""
    never_ran: str = ""
    """The runtime's words, when the kernel refused to execute the program after the start had succeeded."""
