"""What a container of a machine has as disks: its image's layers, what it writes to, and its block volumes.

The layers are the store's files as they are, read-only: all machines have them from one page cache of the
host. What the container writes goes to a sparse file of the setting's size, beside the directories that other
handlers use; it goes with them. The host never mounts it: its content is the guest's.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Sequence

from crib.backends.environment import SharedLayers
from crib.backends.failures import trying
from crib.backends.vm.environment import VmEnvironment
from crib.backends.vm.refusals import check_device
from crib.host.ext4_files import make_ext4_file, used_inodes
from crib.host.files import atomic_write, remove_tree
from crib.host.processes import ProgramFailed
from crib.host.threads import FOREIGN, OURS, Job
from crib.model.container import ContainerConfig, ContainerRecord
from crib.model.errors import Broken, InvalidRequest
from crib.model.ids import ContainerId, Digest
from crib.model.image import FilesystemUsage
from crib.model.paths import Paths
from crib.vm.shim.disk_note import FILE, BlockVolume, DiskNote, encode_note

_MOST_DIRECTORIES = 10_000
"""That are made in a root beforehand: the working directory, and what the image declares as VOLUME."""


class VmDisks:
    """Of one handler."""

    def __init__(self, environment: VmEnvironment, layers: SharedLayers) -> None:
        self._env = environment
        self._paths = environment.paths
        self._layers = layers

    async def check(self, record: ContainerRecord) -> None:
        """InvalidRequest for a device that is no block device: it cannot be in another kernel."""
        if devices := record.config.devices:
            limit = self._env.settings.verb_timeout
            job = Job(f"looking at the devices of container {record.id}", record.sandbox_id, limit)
            for position, mode in enumerate(await FOREIGN.run(job, _modes, record.config)):
                check_device(position, devices[position].host_path, mode)

    async def prepare(self, record: ContainerRecord) -> None:
        """Make the disk, and note all for the shim; the bundle and the root are there. CribError, OSError."""
        what = f"the disk of container {record.id}"
        mounted = await self._layers.acquire(record.layers)
        files = await OURS.run(Job(what, record.id), self._files, record.layers, mounted)
        disk = self._paths.disk(record.id) if files else ""
        if disk:
            await self._make(record.id, disk)
        note = DiskNote(files, disk, _volumes(record.config))
        path = f"{self._paths.container(record.id)}/{FILE}"
        await OURS.run(Job(what, record.id), atomic_write, path, encode_note(note), 0o600)

    async def _make(self, container: ContainerId, disk: str) -> None:
        what, seed = f"making the disk of container {container}", f"{disk}.seed"
        maker = self._env.machine.mke2fs if self._env.machine is not None else ""
        try:
            with trying(what):
                await OURS.run(Job(what, container), self._sow, container, seed)
                await make_ext4_file(maker, disk, self._env.options.vm.disk, seed)
        except ProgramFailed as error:
            raise Broken(f"{what}: {error}") from error
        finally:
            await OURS.run(Job(what, container), remove_tree, seed)

    def _files(self, layers: Sequence[Digest], mounted: Sequence[str]) -> Sequence[str]:
        """Those of the layers that are to be seen, the topmost first; none where one is no file."""
        shown = frozenset(mounted)
        found = [self._paths.layer_file(one) for one in layers if self._paths.layer_mount(one) in shown]
        whole = all(os.path.isfile(path) for path in found) and not any(
            os.path.isdir(self._paths.layer_directory(one)) for one in layers
        )
        return tuple(reversed(found)) if whole else ()

    def _sow(self, container: ContainerId, seed: str) -> None:
        """What the disk begins with: the directories that were made in the root on this host."""
        remove_tree(seed)
        os.mkdir(seed, 0o700)
        _copy_directories(f"{self._paths.writable_layer(container)}/upper", f"{seed}/upper")
        os.mkdir(f"{seed}/work", 0o700)


def disk_usage_here(paths: Paths, container: ContainerId, at: int) -> FilesystemUsage | None:
    """Of a container's disk, as far as this host sees it: what its file takes. None without one. Blocks."""
    path = paths.disk(container)
    try:
        taken = os.stat(path).st_blocks * 512
        return FilesystemUsage(paths.writable_layers, taken, used_inodes(path), at)
    except FileNotFoundError:
        return None


def _modes(config: ContainerConfig) -> list[int]:
    """As stat(2) says."""
    found = []
    for position, device in enumerate(config.devices):
        try:
            found.append(os.stat(device.host_path).st_mode)
        except (OSError, ValueError) as error:
            field = f"devices[{position}].host_path"
            raise InvalidRequest(f"{device.host_path}: {error}", field=field) from error
    return found


def _volumes(config: ContainerConfig) -> list[BlockVolume]:
    return [
        BlockVolume(
            one.container_path or one.host_path,
            one.host_path,
            read_only="w" not in (one.permissions or "rwm"),
        )
        for one in config.devices
    ]


def _copy_directories(source: str, target: str) -> None:
    """With their owners, modes and attributes. OSError where there is anything else."""
    waiting, count = [(source, target)], 0
    while waiting:
        above, copy = waiting.pop()
        status = os.lstat(above)
        if not stat.S_ISDIR(status.st_mode) or (count := count + 1) > _MOST_DIRECTORIES:
            raise OSError(errno.EINVAL, "a new root should have few directories, and nothing else", above)
        os.mkdir(copy, 0o700)
        shutil.copystat(above, copy)
        os.chown(copy, status.st_uid, status.st_gid)
        os.chmod(copy, stat.S_IMODE(status.st_mode))
        waiting += [(f"{above}/{name}", f"{copy}/{name}") for name in os.listdir(above)]
