"""A pod's files on the node: volumes, logs, bound parts of volumes, from `crib run` until `crib rm`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import stat
from typing import TYPE_CHECKING

from crib.client.errors import PodFailure
from crib.client.workloads.generated import DATA_LINK, size_in_memory, write_files
from crib.client.workloads.named_volumes import NamedVolumes
from crib.client.workloads.ownership import set_group
from crib.manifest.fields import is_uid
from crib.manifest.hosts import hosts_text
from crib.manifest.objects import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from crib.manifest.plan import ContainerPlan, Dirs, HostsPlan, PodPlan, SubPathPlan, VolumePlan

PART = "/./"
"""Between a volume and a part of it, in the link that is kept beside a bound part."""
MAX_HOSTS = 1 << 20
"""Characters of the node's /etc/hosts that a pod on the host's network gets."""
MANIFEST = "manifest.yaml"
"""In a pod's directory: what it was made from, with its uid."""
MAX_MANIFEST = 4 << 20
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
        for volume in plan.volumes:
            _make_volume(volume)
            if volume.claim is not None:
                NamedVolumes(dirs).use(volume.claim, plan.uid, volume.name)
            _give_to_group(volume)
        for container in plan.every_container():
            os.makedirs(os.path.join(plan.sandbox.log_directory, container.name), mode=0o755)
    except BaseException:
        remove(dirs, plan.uid)
        raise


def _keep_manifest(plan: PodPlan) -> None:
    """For root only, and without what Secrets hold: this is a disk, and hooks do not need it."""
    path = os.path.join(plan.directory, MANIFEST)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
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
        if volume.memory and volume.path not in mounted:
            fill_volume(volume)
            _give_to_group(volume)


def _give_to_group(volume: VolumePlan) -> None:
    if volume.group is not None:
        generated = volume.kind == "files"
        set_group(volume.path, volume.group, always=volume.group_always, read_only=generated)


def _make_volume(volume: VolumePlan) -> None:
    if volume.kind in ("emptyDir", "files"):
        os.makedirs(os.path.dirname(volume.path), mode=0o750, exist_ok=True)
        os.mkdir(volume.path)
        os.chmod(volume.path, 0o777)  # noqa: S103  # as a kubelet makes them: any user of the pod may write
        fill_volume(volume)
    elif volume.host_type == "DirectoryOrCreate":
        os.makedirs(volume.path, mode=0o755, exist_ok=True)
    elif volume.host_type == "FileOrCreate":
        os.close(os.open(volume.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def fill_volume(volume: VolumePlan) -> None:
    """Make what an empty directory of a volume holds: its file system in memory, its files."""
    if volume.memory:
        generated = volume.kind == "files"
        _mount_tmpfs(volume.path, size_in_memory(volume.files) if generated else volume.size)
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


def bind_sub_paths(plan: ContainerPlan) -> None:
    """Bind the parts of volumes that a container mounts, just before it is created.

    Each name is opened below its parent without following a symbolic link (a container may have left one that
    leads out of the volume), and what was opened is bound, so nothing can be exchanged in between.
    """
    for part in plan.sub_paths:
        if part.target in mounts_below(part.target):
            continue  # the container is started again
        try:
            _bind(part)
        except OSError as error:
            where = f"container {plan.name}: subPath {part.inside} of {part.volume}"
            raise PodFailure(f"{where}: {error.strerror} (symbolic links are not followed)") from error


def _bind(part: SubPathPlan) -> None:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    # no container may write where a manifest's files are, so this link is the one that crib made
    start = os.path.join(part.volume, DATA_LINK) if part.generated else part.volume
    current = os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mode = stat.S_IMODE(os.fstat(current).st_mode)
    try:
        names = part.inside.split("/")
        for position, name in enumerate(names):
            try:
                step = os.open(name, flags, dir_fd=current)
            except FileNotFoundError:
                if part.generated:
                    raise
                os.mkdir(name, dir_fd=current)
                step = os.open(name, flags, dir_fd=current)
                os.chmod(f"/proc/self/fd/{step}", mode)  # as a kubelet: who may write there may write here
            os.close(current)
            current = step
            kind = os.fstat(current).st_mode
            is_last = position == len(names) - 1
            if not stat.S_ISDIR(kind) and not (is_last and stat.S_ISREG(kind)):
                raise NotADirectoryError(20, f"{name} is not a directory")
        os.makedirs(os.path.dirname(part.target), mode=0o750, exist_ok=True)
        if stat.S_ISDIR(os.fstat(current).st_mode):
            os.makedirs(part.target, exist_ok=True)  # there since before a reboot
        else:
            os.close(os.open(part.target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with contextlib.suppress(FileExistsError):
            os.symlink(f"{part.volume}{PART}{part.inside}", f"{part.target}.source")
        _bind_descriptor(current, part.target)
    finally:
        os.close(current)


def remove(dirs: Dirs, uid: str) -> None:
    """Remove what `make` and `bind_sub_paths` made for a pod. Fine when there is nothing.

    The path comes from our own option and the uid, never from what a pod says of itself. Nothing is deleted
    while something is still mounted below: it may be the host's.
    """
    directory = dirs.pod(uid)
    if not is_uid(uid) or not os.path.isdir(directory) or os.path.islink(directory):
        return
    _unmount_below(os.path.realpath(directory))
    shutil.rmtree(directory)


_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_ESCAPE = re.compile(r"\\([0-7]{3})")


def _raise_on(result: int, path: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount_tmpfs(target: str, size: int) -> None:
    """Mount a tmpfs of at most `size` bytes (0: the kernel's default, half of the memory) on a directory."""
    options = f"mode=0777,size={size}" if size else "mode=0777"
    result = _libc().mount(
        b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options.encode()
    )
    _raise_on(result, target)


def _bind_descriptor(descriptor: int, target: str) -> None:
    """Bind what an open descriptor stands for on `target`: no name is looked up again in between."""
    source = f"/proc/self/fd/{descriptor}".encode()
    _raise_on(_libc().mount(source, os.fsencode(target), None, ctypes.c_ulong(_MS_BIND), None), target)


def mounts_below(directory: str) -> list[str]:
    """Mount points in `directory` or below it, the newest first (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_ESCAPE.sub(lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in file]
    prefix = os.path.join(directory, "")
    return [point for point in reversed(points) if point == directory or point.startswith(prefix)]


def _unmount_below(directory: str) -> None:
    """Unmount all that is mounted in `directory` or below it; OSError when something stays."""
    for point in mounts_below(directory):
        _raise_on(_libc().umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW), point)
    if left := mounts_below(directory):
        raise OSError(16, "still mounted", left[0])
