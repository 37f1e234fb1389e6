"""What a container takes from the host.

Sources of its mounts, device nodes, seccomp profiles. All of it may block.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace

from crib.backends.failures import trying, why
from crib.host.directories import make_directory
from crib.host.mount_table import MountEntry, read_mounts
from crib.host.threads import Overdue
from crib.model.container import ContainerConfig, ContainerRecord, Device, MountPropagation
from crib.model.edits import ContainerEdits
from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import ProfileType, SecurityProfile
from crib.model.settings import ContainerDefaults, NodeMount
from crib.ocispec.defaults import node_mounts, parse_device
from crib.ocispec.inputs import HostDevice
from crib.wire.oci_runtime import decode_seccomp

REFUSED_SOURCES = frozenset({"/", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev", "/proc", "/sys"})
"""Never made as a directory when missing: that would break the node, not help the pod."""
_PROFILE_LIMIT = 4 << 20
_SECCOMP = "linux.security_context.seccomp.localhost_ref"
_MAX_DEVICES = 10_000
_PROPAGATES = {
    "shared": MountPropagation.BIDIRECTIONAL,
    "rshared": MountPropagation.BIDIRECTIONAL,
    "slave": MountPropagation.HOST_TO_CONTAINER,
    "rslave": MountPropagation.HOST_TO_CONTAINER,
}
"""Options of mounts."""
_MAX_WALKED = 100_000
_MAX_WALK_DEPTH = 32
_MAX_WALK_SECONDS = 10.0
_NOT_OURS = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx")  # noqa: S108 - the runtime makes these


class ForeignLook:
    """The first look at all that may lie on a file system that does not answer, before anything is made."""

    def __init__(self) -> None:
        self._at = ""
        self._given_up = False
        self.field = ""
        """The field that names what is being looked at; empty when a setting does."""

    @property
    def where(self) -> str:
        """What is being looked at, to be said behind an error; empty when it is nothing of others."""
        return f" (at {self._at})" if self._at else ""

    def stop(self) -> None:
        """Nobody waits for the work any more: `go_on` ends it."""
        self._given_up = True

    def go_on(self) -> None:
        """Overdue when there is nobody to work for."""
        if self._given_up:
            raise Overdue("given up meanwhile")

    def at_all(self, record: ContainerRecord, defaults: ContainerDefaults) -> None:
        """Look at the host paths of a container. What is missing or wrong is for others to say. Blocks."""
        config = record.config
        named = [(f"mounts[{n}].host_path", mount.host_path) for n, mount in enumerate(config.mounts)]
        named += [(f"devices[{n}].host_path", dev.host_path) for n, dev in enumerate(config.devices)]
        if (profile := config.security.seccomp) is not None and profile.kind == ProfileType.LOCALHOST:
            named.append((_SECCOMP, profile.localhost_ref.removeprefix("localhost/")))
        named.append(("log_path", record.log_path))
        looks = [(field, path, path) for field, path in named if path.startswith("/")]
        sources = [mount.source for mount in node_mounts(defaults)]
        looks += [("", path, f"setting containers.mounts {path}") for path in sources]
        for self.field, path, self._at in looks:
            with contextlib.suppress(OSError, ValueError):
                os.stat(path)
            self.go_on()
        self.field = self._at = ""


def real_sources(config: ContainerConfig) -> list[str]:
    """Each host path without symbolic links (the CRI wants the real one mounted); empty for an image.

    What is missing, or stands behind a link of /proc that is no name, stays as it was given.
    """
    found = []
    for mount in config.mounts:
        path = mount.host_path
        real = os.path.realpath(path) if path.startswith("/") and "\0" not in path else path
        found.append(real if os.path.lexists(real) or not os.path.lexists(path) else path)
    return found


def prepare_mount_sources(config: ContainerConfig, missing: str) -> None:
    """Make missing host paths, or refuse them unless `missing` is "create" (setting `missing_host_path`).

    Refuses propagation that a source cannot give, too. Nothing is made unless all of them are fine.
    """
    table: list[MountEntry] | None = None
    to_make: list[tuple[str, str]] = []
    for position, mount in enumerate(config.mounts):
        field = f"mounts[{position}]"
        if mount.image:
            continue
        try:
            os.stat(mount.host_path)
        except FileNotFoundError:
            _check_missing(mount.host_path, f"{field}.host_path", missing)
            to_make.append((mount.host_path, f"{field}.host_path"))
        except (OSError, ValueError) as error:
            text = f"{mount.host_path} cannot be used: {error}"
            raise InvalidRequest(text, field=f"{field}.host_path") from error
        if mount.propagation != MountPropagation.PRIVATE:
            table = table if table is not None else read_mounts()
            _check_propagation(mount.host_path, mount.propagation, table, f"{field}.propagation")
    for path, field in to_make:
        with trying(f"{path} does not exist and cannot be made", field=field):
            make_directory(path, 0o755)


def check_added_mounts(edits: ContainerEdits) -> None:
    """Broken, naming the origin, for what cannot be mounted from this host or cannot propagate there."""
    table: list[MountEntry] | None = None
    for mount in edits.mounts:
        if mount.type != "bind":
            continue
        asked = [_PROPAGATES[option] for option in mount.options if option in _PROPAGATES]
        try:
            os.stat(mount.source)
            for wanted in asked:
                table = table if table is not None else read_mounts()
                _check_propagation(mount.source, wanted, table, "")
        except (OSError, InvalidRequest) as error:
            text = why(error) if isinstance(error, OSError) else str(error)
            raise Broken(f"{edits.origin} asks for what cannot be done: mounts: {text}") from error


def check_log(path: str, field: str) -> None:
    """InvalidRequest where something else has a log's name than a file, or its place. Blocks.

    Who writes it follows links, waits for whoever reads a FIFO, and runs as root: a pod that may write its
    log directory could have it write anywhere.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise InvalidRequest(f"{path} exists and is not a regular file", field=field)
    except FileNotFoundError:
        pass  # to be made
    except NotADirectoryError:
        raise InvalidRequest(f"{path}: a part of the path is not a directory", field=field) from None


def make_log_directory(path: str, field: str) -> None:
    """InvalidRequest, naming `field`, when something else is where the request wants it."""
    try:
        make_directory(path, 0o755)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(why(error), field=field) from error


def _check_missing(path: str, field: str, missing: str) -> None:
    if missing != "create":
        raise InvalidRequest(f"{path} does not exist", field=field)
    if {os.path.normpath(path), os.path.realpath(path)} & REFUSED_SOURCES:
        raise InvalidRequest(f"{path} does not exist and is never made", field=field)


def _check_propagation(path: str, wanted: MountPropagation, table: list[MountEntry], field: str) -> None:
    real = os.path.realpath(path)
    covering = None
    for entry in table:  # later entries cover earlier ones
        inside = real == entry.path or real.startswith(f"{entry.path.rstrip('/')}/")
        if inside and (covering is None or len(entry.path) >= len(covering.path)):
            covering = entry
    if covering is None or covering.shared:
        return
    slave = any(tag.startswith("master:") for tag in covering.propagation)
    if wanted == MountPropagation.HOST_TO_CONTAINER and slave:
        return
    raise InvalidRequest(
        f"{path} is on the mount {covering.path}, which is not shared: mounts cannot propagate there",
        field=field,
    )


class _Walk:
    """The bounds of all directories that are looked through for one container."""

    def __init__(self) -> None:
        self._entries = 0
        self._until = time.monotonic() + _MAX_WALK_SECONDS

    def step(self, path: str, depth: int, field: str) -> None:
        """For each entry. InvalidRequest, naming `field`, when there are too many, too deep or too slow."""
        self._entries += 1
        if self._entries > _MAX_WALKED:
            raise InvalidRequest(f"{path}: more than {_MAX_WALKED} files to look through", field=field)
        if depth > _MAX_WALK_DEPTH:
            raise InvalidRequest(f"{path} is more than {_MAX_WALK_DEPTH} directories deep", field=field)
        if time.monotonic() > self._until:
            raise InvalidRequest(f"{path}: the search took more than {_MAX_WALK_SECONDS:g} s", field=field)


def find_devices(config: ContainerConfig, *, withhold: bool = False) -> tuple[HostDevice, ...]:
    """`config.devices`, and every node of the host for a privileged container unless they are withheld."""
    found = {}
    walk = _Walk()
    if config.security.privileged and not withhold:
        field = "linux.security_context.privileged"
        for path, status in _nodes_below("/dev", walk, field):
            found[path] = _device(path, status, "rwm")
    for position, asked in enumerate(config.devices):
        for device in _asked_for(asked, f"devices[{position}]", walk):
            found[device.path] = device
            if len(found) > _MAX_DEVICES:
                raise InvalidRequest(f"more than {_MAX_DEVICES} device nodes", field="devices")
    return tuple(found.values())


def _asked_for(asked: Device, field: str, walk: _Walk) -> Iterator[HostDevice]:
    target = asked.container_path or asked.host_path
    if not target.startswith("/") or ".." in target.split("/"):
        raise InvalidRequest(f"{target!r} is not an absolute path", field=f"{field}.container_path")
    try:
        status = os.stat(asked.host_path)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{asked.host_path}: {error}", field=f"{field}.host_path") from error
    if stat.S_ISDIR(status.st_mode):
        top = asked.host_path.rstrip("/")
        for path, inner in _nodes_below(top, walk, f"{field}.host_path", links=True):
            below = f"{target.rstrip('/')}{path.removeprefix(top)}"
            yield _device(below, inner, asked.permissions or "rwm")
    elif _is_device(status):
        yield _device(target, status, asked.permissions or "rwm")
    else:
        raise InvalidRequest(f"{asked.host_path} is not a device", field=f"{field}.host_path")


def _nodes_below(
    top: str, walk: _Walk, field: str, *, links: bool = False
) -> Iterator[tuple[str, os.stat_result]]:
    """Device nodes below a directory; with `links` also what links there lead to (/dev/disk/by-id)."""
    waiting = [(top, 1)]
    while waiting:
        directory, depth = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    walk.step(entry.path, depth, field)
                    link = entry.is_symlink()
                    if entry.path in _NOT_OURS or (link and not links):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
                        continue
                    with contextlib.suppress(OSError):  # a link to nothing, or a node that just went away
                        status = entry.stat()
                        if _is_device(status):
                            yield entry.path, status
        except OSError:  # a node that went away meanwhile
            continue


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _device(path: str, status: os.stat_result, permissions: str) -> HostDevice:
    return HostDevice(
        path=path,
        kind="b" if stat.S_ISBLK(status.st_mode) else "c",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        permissions=permissions,
    )


def find_node_devices(defaults: ContainerDefaults) -> tuple[HostDevice, ...]:
    """The nodes that every container gets (setting `containers.devices`); Broken when one is not there."""
    found: list[HostDevice] = []
    walk = _Walk()
    for text in defaults.devices:
        host, container, permissions = parse_device(text)
        try:
            found += _asked_for(Device(container, host, permissions), "containers.devices", walk)
        except InvalidRequest as error:
            raise Broken(f"setting containers.devices: {error.message}") from error
    return tuple(found)


def find_node_mounts(defaults: ContainerDefaults) -> tuple[NodeMount, ...]:
    """What every container sees, with its real place on the host; Broken when it is not there."""
    found = []
    for mount in node_mounts(defaults):
        with trying(f"setting containers.mounts: {mount.source}"):
            found.append(replace(mount, source=os.path.realpath(mount.source, strict=True)))
    return tuple(found)


def read_default_profile(path: str) -> bytes | None:
    """Content of the profile that stands for RuntimeDefault; None: ours does. Broken when it is no good."""
    if not path:
        return None
    try:
        data = _read_profile(path)
        decode_seccomp(data)
    except (OSError, ValueError) as error:
        raise Broken(f"setting containers.seccomp_profile: {path}: {error}") from error
    return data


def read_seccomp_profile(profile: SecurityProfile | None) -> bytes | None:
    """Content of a localhost profile; None when none is named. InvalidRequest when it cannot be read."""
    if profile is None or profile.kind != ProfileType.LOCALHOST:
        return None
    path = profile.localhost_ref.removeprefix("localhost/")
    if not path.startswith("/"):
        raise InvalidRequest(f"{path!r} is not an absolute path", field=_SECCOMP)
    try:
        return _read_profile(path)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"profile {path} cannot be read: {error}", field=_SECCOMP) from error


def _read_profile(path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(_PROFILE_LIMIT + 1)
    if len(data) > _PROFILE_LIMIT:
        raise ValueError(f"it is longer than {_PROFILE_LIMIT} bytes")
    return data
