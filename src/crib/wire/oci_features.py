"""What an OCI runtime's `features` prints (OCI runtime spec 1.1 to 1.3, features.md). Only what we read."""

from __future__ import annotations

import msgspec

from crib.wire.oci_runtime import Shape


class MountExtensions(Shape, frozen=True):
    """features-linux.md, mount extensions."""

    class IdMap(Shape, frozen=True):
        """Whether id-mapped mounts are known."""

        enabled: bool = False

    idmap: IdMap = IdMap()


class Ability(Shape, frozen=True):
    """features-linux.md: whether something is known (netDevices, intelRdt)."""

    enabled: bool | None = None
    schemata: bool | None = None
    monitoring: bool | None = None


class MemoryPolicyFeatures(Shape, frozen=True):
    """features-linux.md, memoryPolicy: the names that are known."""

    modes: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None


class LinuxFeatures(Shape, frozen=True):
    """features-linux.md."""

    namespaces: tuple[str, ...] | None = None
    mount_extensions: MountExtensions | None = None
    intel_rdt: Ability | None = None
    net_devices: Ability | None = None
    memory_policy: MemoryPolicyFeatures | None = None


class Features(Shape, frozen=True):
    """features.md: what `features` prints."""

    oci_version_max: str
    oci_version_min: str = ""
    mount_options: tuple[str, ...] | None = None
    linux: LinuxFeatures | None = None


def decode_features(data: bytes) -> Features:
    """What `features` printed; ValueError when it is something else."""
    return msgspec.json.decode(data, type=Features)
