"""The archive of a checkpoint, as CRI-O, containerd, Podman and checkpointctl have it; no I/O.

A plain tar: `config.dump`, `spec.dump`, `status.dump` (JSON), CRIU's images in `checkpoint/`, what the
container has changed in its root as `rootfs-diff.tar` and `deleted.files`, its log, and what CRIU says of
itself. Sources: checkpointctl, lib/metadata.go; CRI-O, internal/lib/checkpoint.go.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from crib.wire import oci_runtime as oci

CONFIG = "config.dump"
SPEC = "spec.dump"
STATUS = "status.dump"
IMAGES = "checkpoint"
"""Directory of CRIU's images."""
DIFF = "rootfs-diff.tar"
DELETED = "deleted.files"
"""A JSON array of paths, which begin with a slash."""
LOG = "container.log"
STATISTICS = "stats-dump"
CRIU_LOG = "dump.log"
MAX_DOCUMENT = 8 << 20
"""Bytes of `config.dump` and of `spec.dump` at most."""


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`config.dump` (checkpointctl, ContainerConfig)."""

    id: str
    name: str
    image: str = msgspec.field(default="", name="rootfsImage")
    image_ref: str = msgspec.field(default="", name="rootfsImageRef")
    image_name: str = msgspec.field(default="", name="rootfsImageName")
    runtime: str = ""
    created_time: str = ""
    checkpointed_time: str = ""
    restored_time: str = "0001-01-01T00:00:00Z"
    restored: bool = False


class CheckpointStatus(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """`status.dump` (containerd's container status, as checkpointctl reads it)."""

    pid: int
    created_at: int
    started_at: int
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class SavedProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What a container that is restored must be the same in, as `spec.dump` has it."""

    args: tuple[str, ...] = ()
    cwd: str = ""
    env: frozenset[str] = frozenset()
    """Without HOSTNAME, which is the pod's."""
    user: tuple[int, int, tuple[int, ...]] = (0, 0, ())
    """User, group, and further groups."""

    def differences(self, other: SavedProcess) -> str:
        """The fields that are not the same."""
        fields = ("args", "cwd", "env", "user")
        return ", ".join(name for name in fields if getattr(self, name) != getattr(other, name))


def saved_process(process: oci.Process) -> SavedProcess:
    user = process.user
    return SavedProcess(
        args=process.args,
        cwd=process.cwd,
        env=frozenset(entry for entry in process.env if not entry.startswith("HOSTNAME=")),
        user=(user.uid, user.gid, tuple(sorted(user.additional_gids))),
    )


def encode(document: CheckpointConfig | CheckpointStatus | list[str]) -> bytes:
    return msgspec.json.encode(document)


def decode_config(data: bytes) -> CheckpointConfig:
    """ValueError when it is something else."""
    return msgspec.json.decode(data, type=CheckpointConfig)


def decode_deleted(data: bytes) -> list[str]:
    """ValueError when it is something else."""
    return msgspec.json.decode(data, type=list[str])


def timestamp(nanoseconds: int) -> str:
    """As Go writes a time.Time (RFC 3339), to the microsecond."""
    moment = datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 1_000_000_000:09d}Z"
