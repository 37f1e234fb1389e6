"""The tree that the guest sees by virtiofs: mounts that no table of the host has.

virtiofsd is in a mount namespace of its own, in which there is nothing but the tree. What a container is
given is bound into that namespace, and goes with virtiofsd, however that ends. The guest cannot write into
the tree itself: so no link of the guest's making is in the way of what is made there by its path on the host.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from crib.host.files import atomic_write, remove_tree
from crib.host.mounts import Bind
from crib.host.other_mounts import Export, bind_into, set_read_only_in, unmount_in
from crib.vm.shim.spec import Shared, directory


class ShareTree:
    """Of one pod. All methods block, for milliseconds where no source hangs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._namespace = -1
        self._targets: dict[str, list[str]] = {}

    def enter(self, pid: int) -> None:
        """virtiofsd, whose pid this is, serves the tree: from now on the guest cannot change it. OSError."""
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(namespace).st_ino == os.stat("/proc/self/ns/mnt").st_ino:
            os.close(namespace)
            raise OSError(f"virtiofsd (pid {pid}) has no mount namespace of its own")
        self._namespace = namespace
        set_read_only_in(namespace, "/")

    def add(self, container: str, config: bytes, shared: Sequence[Shared]) -> None:
        """Make a container's directory. What was made stays when this fails, for `remove`. OSError."""
        top = f"{self.path}/{directory(container)}"
        for name in ("m", "rootfs"):
            os.makedirs(f"{top}/{name}", mode=0o755)
        self._targets[container] = []
        for one in shared:
            target = f"{self.path}/{one.target}"
            if one.directory:
                os.makedirs(target, 0o755, exist_ok=True)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        for one in shared:
            bind = Bind(
                one.source,
                f"/{one.target}",
                recursive=one.recursive,
                recursive_read_only=one.read_only and one.recursive,
                read_only=one.read_only,
                no_suid_dev=True,
            )
            bind_into(self._namespace, (Export(bind, one.follows),))
            self._targets[container].append(bind.target)
        atomic_write(f"{top}/config.json", config, 0o600)

    def remove(self, container: str) -> None:
        """Take a container's directory away. Safe to repeat."""
        for target in reversed(self._targets.pop(container, [])):
            with contextlib.suppress(OSError):  # gone with virtiofsd
                unmount_in(self._namespace, target)
        remove_tree(f"{self.path}/{directory(container)}")

    def close(self) -> None:
        """The tree is served no more. Safe to repeat."""
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1
        self._targets.clear()
