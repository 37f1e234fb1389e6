"""What an OCI runtime's `features` prints (OCI runtime spec 1.1 to 1.3, features.md). Only what we read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from crib.wire.oci_runtime import Shape

_SCHEDULING = (1, 1)
"""The specification that has `process.scheduler` and `process.ioPriority`."""
_NUMBERS = re.compile(r"(\d{1,4})\.(\d{1,4})")


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
    mode: tuple[str, ...] | None = None
    """What crun calls `modes` (1.24)."""
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
    annotations: Mapping[str, str] | None = None


_CHECKPOINTS = ("org.opencontainers.runc.checkpoint.enabled", "run.oci.crun.checkpoint.enabled")


def makes_checkpoints(features: Features) -> bool:
    """Whether the runtime was built with support for CRIU (annotations of runc 1.1 and crun 1.7)."""
    return any((features.annotations or {}).get(key) == "true" for key in _CHECKPOINTS)


def decode_features(data: bytes) -> Features:
    """What `features` printed; ValueError when it is something else."""
    return msgspec.json.decode(data, type=Features)


def known_fields(features: Features) -> frozenset[str]:
    """Of the fields that not every runtime knows, those that this one does."""
    linux = features.linux or LinuxFeatures()
    policy = linux.memory_policy
    known = {
        "scheduler": _version(features.oci_version_max) >= _SCHEDULING,
        "io_priority": _version(features.oci_version_max) >= _SCHEDULING,
        "net_devices": linux.net_devices is not None and bool(linux.net_devices.enabled),
        "rdt": linux.intel_rdt is not None and bool(linux.intel_rdt.enabled),
        "memory_policy": policy is not None and bool(policy.modes or policy.mode),
    }
    return frozenset(name for name, is_known in known.items() if is_known)


def _version(text: str) -> tuple[int, int]:
    match = _NUMBERS.match(text)
    return (int(match[1]), int(match[2])) if match is not None else (0, 0)
