"""What every kind of handler that runs pods on this host finds, and makes, when it is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crib.backends.bundle.host_resources import read_default_profile
from crib.backends.bundle.labels import Labels
from crib.backends.bundle.spec_files import read_base_spec
from crib.backends.environment import HandlerOpening
from crib.backends.pods.slices import systemd_version
from crib.host.mounts import make_private_root


@dataclass(frozen=True, slots=True)
class NodeParts:
    """See the fields of the same names in `HandlerEnvironment`."""

    base_spec: Mapping[str, Any]
    default_seccomp: bytes | None
    systemd: int
    """Version of the systemd that makes cgroups; 0 where it makes none."""


async def open_node(opening: HandlerOpening) -> NodeParts:
    """Make our directories and look at the files that the settings name. CribError or OSError."""
    paths, options = opening.paths, opening.options
    for directory in (paths.exits, paths.sandboxes, paths.containers, paths.monitor_sockets):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    os.makedirs(paths.writable_layers, mode=0o700, exist_ok=True)
    for directory in (paths.sandboxes, paths.containers):
        # The root of a pod's user namespace passes through to its own files, and sees no others.
        os.chmod(directory, 0o711)  # noqa: S103
    make_private_root(paths.containers)
    systemd = await systemd_version() if opening.settings.cgroup_driver == "systemd" else 0
    base_spec = read_base_spec(options.base_spec, opening.name)
    default_seccomp = read_default_profile(options.containers.seccomp_profile)
    labels = Labels(paths, opening.host)
    labels.require_types()
    await labels.load_default_profile(None, privileged=False)
    return NodeParts(base_spec, default_seccomp, systemd)
