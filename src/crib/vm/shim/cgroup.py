"""The pod's cgroup, which holds the shim and all that it starts.

The shim is in it before it starts a VM: memory stays charged where it was first used, so what a guest uses
while it boots would else be cribd's for as long as the pod lives.
"""

from __future__ import annotations

import os

from crib.host.cgroups import Cgroups, detect_layout, expand_slice


def join_cgroup(named: str) -> None:
    """Move this process into the cgroup of a cgroupsPath. Safe to repeat. Blocks. ValueError, OSError."""
    path, cgroups = cgroup_path(named), Cgroups(detect_layout())
    cgroups.create(path)
    cgroups.add_process(path, os.getpid())


def cgroup_path(named: str) -> str:
    """Of the OCI's cgroupsPath: a path, or systemd's `SLICE:PREFIX:NAME`. ValueError."""
    if ":" not in named:
        return named
    slice_name, prefix, name = named.split(":", 2)
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return f"{expand_slice(slice_name).rstrip('/')}/{unit}"
