"""Named volumes: directories of this node that outlive the pods that use them.

A claim of a manifest (`persistentVolumeClaim`) is one. It is made for the first pod that asks for it, and is
removed by a person. `ROOT/NAMESPACE/NAME` holds `data`, which pods mount, and `volume.json`, which says what
it is. A pod that uses one has a link to it among its files; so it is known who does, whether pods run or not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from crib.client.errors import NotFound, WrongState
from crib.manifest.fields import is_label, is_subdomain, is_uid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crib.manifest.plan import ClaimPlan, Dirs

_CLAIMS = "claims"
_REMOVED = ".removed-"


@dataclass(frozen=True, slots=True)
class NamedVolume:
    """One of them. `size` is what was asked for in bytes (0: nothing), `created` in seconds of the epoch."""

    namespace: str
    name: str
    path: str
    created: float = 0.0
    size: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    """Uids of the pods that use it."""

    @property
    def label(self) -> str:
        """As it is called: NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"


class NamedVolumes:
    """Those of one place. OSError names the path that could not be used."""

    def __init__(self, dirs: Dirs) -> None:
        self._dirs = dirs

    def use(self, claim: ClaimPlan, uid: str, volume: str) -> str:
        """Make the volume if it is not there, note that this pod uses it, and give the path of its data."""
        links = os.path.join(self._dirs.pod(uid), _CLAIMS)
        os.makedirs(links, mode=0o750, exist_ok=True)
        with self._locked():
            found = self._make(claim)
            with contextlib.suppress(FileExistsError):
                os.symlink(found, os.path.join(links, volume))
        return os.path.join(found, "data")

    def create(self, claim: ClaimPlan) -> NamedVolume:
        """Make one that is not there yet. WrongState if it is."""
        with self._locked():
            if os.path.lexists(self._path(claim.namespace, claim.name)):
                raise WrongState(f"volume {claim.namespace}/{claim.name} is there already")
            self._make(claim)
        return self.find(f"{claim.namespace}/{claim.name}")

    def all(self) -> list[NamedVolume]:
        """Every one, by name."""
        users = self._users()
        labels = [
            (namespace, name)
            for namespace in filter(is_label, _entries(self._dirs.volumes))
            for name in filter(is_subdomain, _entries(os.path.join(self._dirs.volumes, namespace)))
        ]
        return [self._read(namespace, name, users) for namespace, name in sorted(labels)]

    def find(self, text: str) -> NamedVolume:
        """NAME (of the namespace default) or NAMESPACE/NAME. NotFound if there is none."""
        namespace, _, name = text.rpartition("/")
        for volume in self.all():
            if (volume.namespace, volume.name) == (namespace or "default", name):
                return volume
        raise NotFound(f"there is no volume {text!r}")

    def remove(self, text: str) -> NamedVolume:
        """Remove one with what it holds. WrongState while a pod uses it."""
        with self._locked():
            volume = self.find(text)
            if volume.users:
                raise WrongState(f"volume {volume.label} is used by {_counted(volume.users)}")
            moved = os.path.join(self._dirs.volumes, f"{_REMOVED}{time.time_ns()}")
            os.rename(self._path(volume.namespace, volume.name), moved)
        shutil.rmtree(moved)
        with contextlib.suppress(OSError):  # others of the namespace may be there
            os.rmdir(os.path.join(self._dirs.volumes, volume.namespace))
        return volume

    def _path(self, namespace: str, name: str) -> str:
        return self._dirs.named_volume(namespace, name)

    def _make(self, claim: ClaimPlan) -> str:
        path = self._path(claim.namespace, claim.name)
        if os.path.isdir(os.path.join(path, "data")):
            return path
        os.makedirs(path, mode=0o750, exist_ok=True)
        said = {"created": time.time(), "size": claim.size, "labels": dict(claim.labels)}
        with open(os.path.join(path, "volume.json"), "w", encoding="utf-8") as file:
            json.dump(said, file)
        data = os.path.join(path, "data")
        os.mkdir(data)
        os.chmod(data, 0o777)  # noqa: S103  # as for emptyDir: any user of the pod may write
        return path

    def _read(self, namespace: str, name: str, users: dict[str, list[str]]) -> NamedVolume:
        path = self._path(namespace, name)
        said: dict[str, Any] = {}
        with (
            contextlib.suppress(OSError, ValueError),
            open(os.path.join(path, "volume.json"), encoding="utf-8") as file,
        ):
            said = json.load(file)
        return NamedVolume(
            namespace,
            name,
            os.path.join(path, "data"),
            created=float(said.get("created", 0)),
            size=int(said.get("size", 0)),
            labels=dict(said.get("labels", {})),
            users=tuple(sorted(users.get(path, ()))),
        )

    def _users(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for uid in filter(is_uid, _entries(self._dirs.root)):
            links = os.path.join(self._dirs.root, uid, _CLAIMS)
            for name in _entries(links):
                with contextlib.suppress(OSError):
                    users = found.setdefault(os.readlink(os.path.join(links, name)), [])
                    if uid not in users:
                        users.append(uid)
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One program at a time makes or removes volumes; held for a few calls only."""
        os.makedirs(self._dirs.volumes, mode=0o711, exist_ok=True)
        with open(os.path.join(self._dirs.volumes, ".lock"), "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def as_dict(volume: NamedVolume) -> dict[str, Any]:
    """For programs."""
    return {**asdict(volume), "users": list(volume.users)}


def _entries(directory: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(directory) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _counted(users: Sequence[str]) -> str:
    return f"the pod with uid {users[0]}" if len(users) == 1 else f"{len(users)} pods"
