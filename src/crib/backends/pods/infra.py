"""The infra process of pods that share their pids: the root that it has, and who runs it.

Catatonit as pid 1, which reaps orphans and does nothing else.
"""

from __future__ import annotations

import os
import shutil
import threading
from typing import Protocol

from crib.host.directories import make_directory
from crib.host.files import atomic_write
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import Tmpfs, perform
from crib.host.processes import ToolMissing
from crib.model.ids import SandboxId
from crib.model.paths import Paths
from crib.model.sandbox import ProcessIdentity
from crib.ocispec.infra import InfraInputs

PROGRAM = "catatonit"
_INSTALLING = threading.Lock()
_PROGRAM_LIMIT = 64 << 20


class InfraProcesses(Protocol):
    """Runs infra processes: whoever runs the containers of a handler. Each is known by its pod's id."""

    async def start(self, sandbox: SandboxId, inputs: InfraInputs) -> ProcessIdentity:
        """Make its bundle in `Paths.infra`, and run it. Half-made things are left for `end`."""
        ...

    def exists(self, sandbox: SandboxId) -> bool:
        """Whether there is one, or what is left of one. Blocks."""
        ...

    async def end(self, sandbox: SandboxId) -> None:
        """Kill it and take it away. What survives that is killed by its cgroup."""
        ...

    def forget(self, sandbox: SandboxId) -> None:
        """Remove what `end` could not. Blocks; safe to repeat."""
        ...


def install_infra(paths: Paths, catatonit: str) -> str:
    """The root that all infra processes share, with one static program in it.

    Made when it is not there. Blocks. A mount of its own, because /run may be noexec (Debian), and no user
    namespace can take that away.
    """
    root = paths.infra_root
    target = f"{root}/{PROGRAM}"
    with _INSTALLING:
        if is_mountpoint(root) and os.path.exists(target):
            return root
        found = shutil.which(catatonit)
        if found is None:
            raise ToolMissing(catatonit)
        make_directory(root, 0o755)
        if not is_mountpoint(root):
            perform(Tmpfs(root, _PROGRAM_LIMIT))
        for name in ("proc", "dev"):
            make_directory(f"{root}/{name}", 0o755)
        with open(found, "rb") as file:
            atomic_write(target, file.read(_PROGRAM_LIMIT), 0o555)
    return root
