"""What lies under our roots and belongs to nobody that is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from crib.backends.oci.environment import OciEnvironment
from crib.model.ids import ContainerId, SandboxId, is_id


@dataclass(frozen=True, slots=True)
class Strays:
    """Ids with leftovers."""

    containers: tuple[ContainerId, ...]
    sandboxes: tuple[SandboxId, ...]


def find_strays(
    environment: OciEnvironment, sandboxes: frozenset[SandboxId], containers: frozenset[ContainerId]
) -> Strays:
    """Look through directories, exit files, the runtime's state and our own cgroups."""
    paths, cgroups = environment.paths, environment.cgroups
    known: frozenset[str] = sandboxes | containers
    root = environment.settings.cgroup_root
    pods = {*_ids(paths.sandboxes), *(name for top in cgroups.directories(root) for name in _ids(top))}
    found: set[str] = set()
    for directory in (paths.containers, paths.writable_layers, paths.exits, environment.runtime.root):
        found.update(_ids(directory))
    # An infra process is known to the runtime under its sandbox's id.
    found -= pods
    return Strays(
        tuple(sorted(ContainerId(name) for name in found - known)),
        tuple(sorted(SandboxId(name) for name in pods - known)),
    )


def _ids(directory: str) -> Iterator[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    yield from (name for name in names if is_id(name))
