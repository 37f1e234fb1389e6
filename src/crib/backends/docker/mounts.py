"""The mounts of a spec in the words of the Engine, and those flags for which it has none. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crib.model.errors import InvalidRequest
from crib.wire import oci_runtime as oci

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_PLAIN = frozenset(("bind", "rbind", "ro", "rw", *_PROPAGATIONS))
_CARRIED = frozenset(("nosuid", "nodev", "rro"))
"""Flags that a mount of ours has, which is bound in the place of the source: a bind takes them over."""
_CUSTOMARY = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/dev": "tmpfs",
    "/dev/pts": "devpts",
    "/dev/mqueue": "mqueue",
    "/sys/fs/cgroup": "cgroup",
}
"""What the Engine mounts by itself."""


@dataclass(frozen=True, slots=True)
class FlaggedBind:
    """A bind whose flags the Engine has no word for."""

    destination: str
    source: str
    read_only: bool
    recursive_read_only: bool
    no_suid_dev: bool


def flagged_binds(mounts: Sequence[oci.Mount], pod_files: str) -> Iterator[FlaggedBind]:
    """Those that are to be made by us. InvalidRequest for flags that nobody can carry over."""
    for mount in mounts:
        if mount.type != "bind" or _is_host_shm(mount) or _is_pod_file(mount, pod_files):
            continue
        flags = set(mount.options) - _PLAIN
        if odd := flags - _CARRIED:
            raise InvalidRequest(
                f"the Engine has no word for {', '.join(sorted(odd))} of the mount at {mount.destination}",
                field="mounts",
            )
        if flags:
            yield FlaggedBind(
                mount.destination,
                mount.source,
                read_only="ro" in mount.options,
                recursive_read_only="rro" in flags,
                no_suid_dev=bool(flags & {"nosuid", "nodev"}),
            )


def engine_mounts(
    mounts: Sequence[oci.Mount], binds: Mapping[str, str], pod_files: str, api: tuple[int, int]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """`Mounts` and `Tmpfs` of HostConfig. `binds` has the sources of what is flagged, by destination."""
    bound: list[dict[str, Any]] = []
    tmpfs: dict[str, str] = {}
    for mount in mounts:
        if _is_host_shm(mount):
            continue  # it goes with the host's IPC
        if mount.type == "bind":
            bound.append(_bind(mount, binds.get(mount.destination, ""), pod_files, api))
        elif mount.type == "tmpfs" and mount.destination not in _CUSTOMARY:
            tmpfs[mount.destination] = ",".join(mount.options)
        elif _CUSTOMARY.get(mount.destination) != mount.type:
            raise InvalidRequest(
                f"the Engine mounts no {mount.type or 'file system'} at {mount.destination}", field="mounts"
            )
    return bound, tmpfs


def _bind(mount: oci.Mount, ours: str, pod_files: str, api: tuple[int, int]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    propagation = [one for one in mount.options if one in _PROPAGATIONS]
    if propagation:
        options["Propagation"] = propagation[-1]
    if "bind" in mount.options and "rbind" not in mount.options:
        options["NonRecursive"] = True
    read_only = "ro" in mount.options and not ours
    if read_only and api >= (1, 44):
        options["ReadOnlyNonRecursive"] = True
    return {
        "Type": "bind",
        "Source": ours or mount.source,
        "Target": mount.destination,
        "ReadOnly": read_only,
        "BindOptions": options,
    }


def _is_host_shm(mount: oci.Mount) -> bool:
    return mount.type == "bind" and mount.source == mount.destination == "/dev/shm"  # noqa: S108


def _is_pod_file(mount: oci.Mount, pod_files: str) -> bool:
    """Whose flags come from where it lies: a bind has those of its source."""
    return bool(pod_files) and mount.source.startswith(f"{pod_files}/")


def needs_privileges(mounts: Sequence[oci.Mount]) -> bool:
    """Whether /sys or the cgroups in it are to be written to, which the Engine allows to privileged ones."""
    return any(
        mount.destination in ("/sys", "/sys/fs/cgroup")
        and mount.type in ("sysfs", "cgroup")
        and "ro" not in mount.options
        for mount in mounts
    )
