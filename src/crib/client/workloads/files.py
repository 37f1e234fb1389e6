"""A pod's files on the node: its own volumes and its logs, from `crib run` until `crib rm`."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

from crib.client.errors import PodFailure
from crib.client.workloads.generated import size_in_memory, write_files
from crib.client.workloads.mounting import mount_tmpfs, mounts_below, unmount_below
from crib.client.workloads.ownership import set_group
from crib.manifest.fields import is_uid
from crib.manifest.hosts import hosts_text
from crib.manifest.objects import without_secrets
from crib.manifest.plan import VolumeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from crib.manifest.plan import Dirs, HostsPlan, PodPlan, VolumePlan

MAX_HOSTS = 1 << 20
"""Characters of the node's /etc/hosts that a pod on the host's network gets."""
MANIFEST = "manifest.yaml"
"""In a pod's directory: what it was made from, with its uid."""
MAX_MANIFEST = 4 << 20
ATTACHED = "attached"
"""In a pod's directory, an empty file: it has, or had, volumes of the runtime, which go when it does."""
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
_IS_TYPE: dict[str, Callable[[int], bool]] = {
    "Directory": stat.S_ISDIR,
    "DirectoryOrCreate": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "FileOrCreate": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


def check(plan: PodPlan, replaced: Collection[str] = ()) -> None:
    """Refuse host paths that do not match the manifest, before anything is made.

    `replaced` are the uids of pods that go before this one is made.
    """
    for volume in plan.volumes:
        if volume.kind == "hostPath":
            _check_host_path(plan, volume)
    if plan.uid not in replaced and os.path.lexists(plan.directory):
        raise PodFailure(
            f"pod {plan.label}: {plan.directory} is left over from a pod with this uid; remove it"
        )


def _check_host_path(plan: PodPlan, volume: VolumePlan) -> None:
    is_type = _IS_TYPE.get(volume.host_type)
    if is_type is None:
        return
    try:
        mode = os.stat(volume.path).st_mode
    except FileNotFoundError:
        if volume.host_type.endswith("OrCreate"):
            return
        where = f"pod {plan.label}: volume {volume.name}"
        raise PodFailure(f"{where}: {volume.path} does not exist (type {volume.host_type})") from None
    if not is_type(mode):
        wanted = volume.host_type.removesuffix("OrCreate")
        raise PodFailure(f"pod {plan.label}: volume {volume.name}: {volume.path} is not a {wanted}")


def make(plan: PodPlan, dirs: Dirs) -> None:
    """Make the pod's directory with its volumes and log directories. Leaves nothing behind on failure.

    OSError names the path.
    """
    os.makedirs(os.path.dirname(plan.directory), mode=0o755, exist_ok=True)
    os.mkdir(plan.directory, 0o750)
    try:
        _keep_manifest(plan)
        if any(volume.claim is not None for volume in plan.volumes):
            os.close(os.open(os.path.join(plan.directory, ATTACHED), _NEW_FILE, 0o600))
        for volume in plan.volumes:
            _keep_secrets(dirs, plan.uid, volume)
            if volume.claim is None:
                make_volume(volume)
        for container in plan.every_container():
            os.makedirs(os.path.join(plan.sandbox.log_directory, container.name), mode=0o755)
    except BaseException:
        remove(dirs, plan.uid)
        raise


def _keep_manifest(plan: PodPlan) -> None:
    """For root only, and without what Secrets hold: this is a disk, and hooks do not need it."""
    path = os.path.join(plan.directory, MANIFEST)
    with open(os.open(path, _NEW_FILE, 0o600), "w") as file:
        file.write(without_secrets(plan.document))


def manifest_of(dirs: Dirs, uid: str) -> str:
    """The manifest that a pod was made from; empty when none is here."""
    if not is_uid(uid):
        return ""
    try:
        with open(os.path.join(dirs.pod(uid), MANIFEST), encoding="utf-8") as file:
            return file.read(MAX_MANIFEST)
    except (OSError, UnicodeDecodeError):
        return ""


def restore(plan: PodPlan, dirs: Dirs) -> None:
    """Make the pod's directory, or what a reboot took of it: volumes in memory, whose content is gone."""
    if not os.path.isdir(plan.directory):
        make(plan, dirs)
        return
    mounted = mounts_below(plan.directory)
    for volume in plan.volumes:
        if dirs.secrets(plan.uid, volume.name) not in mounted:
            _keep_secrets(dirs, plan.uid, volume)
        if volume.memory and volume.path not in mounted:
            fill_volume(volume)
            give_to_group(volume)


def _keep_secrets(dirs: Dirs, uid: str, volume: VolumePlan) -> None:
    """What the driver of a volume is told, in memory, a file for each key; only root may read them."""
    secrets = volume.claim.spec.driver.secrets if volume.claim and volume.claim.spec.driver else ()
    if not secrets:
        return
    directory = dirs.secrets(uid, volume.name)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = [VolumeFile(key, value, 0o400) for key, value in secrets]
    mount_tmpfs(directory, size_in_memory(found))
    write_files(directory, found)


def is_attached(dirs: Dirs, uid: str) -> bool:
    """Whether the pod may have volumes of the runtime, by what is among its files."""
    return is_uid(uid) and os.path.exists(os.path.join(dirs.pod(uid), ATTACHED))


def give_to_group(volume: VolumePlan) -> None:
    """To the pod's `fsGroup`, if it has one."""
    if volume.group is not None:
        generated = volume.kind == "files"
        set_group(volume.path, volume.group, always=volume.group_always, read_only=generated)


def make_volume(volume: VolumePlan) -> None:
    """Make a volume that is among the pod's files, and give it to the pod's group."""
    if volume.kind in ("emptyDir", "files"):
        os.makedirs(os.path.dirname(volume.path), mode=0o750, exist_ok=True)
        os.mkdir(volume.path)
        os.chmod(volume.path, 0o777)  # noqa: S103  # as a kubelet makes them: any user of the pod may write
        fill_volume(volume)
    elif volume.host_type == "DirectoryOrCreate":
        os.makedirs(volume.path, mode=0o755, exist_ok=True)
    elif volume.host_type == "FileOrCreate":
        os.close(os.open(volume.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    give_to_group(volume)


def fill_volume(volume: VolumePlan) -> None:
    """Make what an empty directory of a volume holds: its file system in memory, its files."""
    if volume.memory:
        generated = volume.kind == "files"
        mount_tmpfs(volume.path, size_in_memory(volume.files) if generated else volume.size)
    if volume.kind == "files":
        write_files(volume.path, volume.files)


def write_hosts(plan: HostsPlan, addresses: Sequence[str]) -> None:
    """Write the pod's /etc/hosts. Whoever has it mounted sees the new text: the file is the same."""
    of_host = ""
    if not plan.names:
        with open("/etc/hosts", encoding="utf-8", errors="surrogateescape") as file:
            of_host = file.read(MAX_HOSTS)
    with open(plan.path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(hosts_text(plan, addresses, of_host))


def unbind(dirs: Dirs, uid: str) -> None:
    """Unmount what is mounted among a pod's files: parts of volumes keep the volumes busy."""
    if _has_files(dirs, uid):
        unmount_below(os.path.realpath(dirs.pod(uid)))


def _has_files(dirs: Dirs, uid: str) -> bool:
    directory = dirs.pod(uid)
    return is_uid(uid) and os.path.isdir(directory) and not os.path.islink(directory)


def remove(dirs: Dirs, uid: str) -> None:
    """Remove what was made for a pod here, and what is bound among it. Fine when there is nothing.

    The path comes from our own option and the uid, never from what a pod says of itself. Nothing is deleted
    while something is still mounted below: it may be the host's.
    """
    if _has_files(dirs, uid):
        unbind(dirs, uid)
        shutil.rmtree(dirs.pod(uid))
