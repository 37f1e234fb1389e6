"""Options of the mounted cgroup v2 tree (kernel, admin-guide/cgroup-v2, "Mounting")."""

from __future__ import annotations

import errno
import os

from crib.host import libc
from crib.host.mount_table import read_mounts

FAVOURS_CHANGES = "favordynmods"
"""Changes of cgroups wait for no grace period of RCU; forks and exits cost a little more (kernel 6.0)."""
_OF_EVERY_TREE = frozenset(("rw", "ro"))
_KNOWN = frozenset(
    (
        *(FAVOURS_CHANGES, "nsdelegate", "memory_localevents", "memory_recursiveprot"),
        *("memory_hugetlb_accounting", "pids_localevents"),
    )
)


def favour_changes(tree: str, mountinfo: str = "/proc/self/mountinfo") -> None:
    """Give the cgroup v2 tree that is mounted at `tree` the option favordynmods, in all places at once.

    The kernel takes away whatever is not named again, so all options that it has are. OSError: EINVAL from a
    kernel before 6.0, EOPNOTSUPP where the tree has an option that is not known here, EPERM where the kernel
    does not let us, as in a cgroup namespace; then all is as before.
    """
    options = options_of(tree, mountinfo)
    if FAVOURS_CHANGES in options:
        return
    if unknown := options - _KNOWN:
        text = f"it has the option {min(unknown)}, which would be lost"
        raise OSError(errno.EOPNOTSUPP, text, tree)
    context = libc.fspick(tree)
    try:
        for option in sorted(options | {FAVOURS_CHANGES}):
            libc.fsconfig_flag(context, option)
        libc.fsconfig_reconfigure(context)
    finally:
        os.close(context)
    if FAVOURS_CHANGES not in options_of(tree, mountinfo):
        raise OSError(errno.EPERM, f"from this cgroup namespace nobody can set {FAVOURS_CHANGES}", tree)


def options_of(tree: str, mountinfo: str = "/proc/self/mountinfo") -> frozenset[str]:
    """Options of the cgroup v2 tree that is mounted there; ENODEV where there is none."""
    found = [entry for entry in read_mounts(mountinfo) if entry.path == tree and entry.fstype == "cgroup2"]
    if not found:
        raise OSError(errno.ENODEV, "no cgroup v2 tree is mounted", tree)
    return found[-1].super_options - _OF_EVERY_TREE
