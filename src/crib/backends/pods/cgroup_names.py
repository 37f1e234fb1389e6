"""Where the cgroups of pods and containers are, by the driver's rules.

             cgroupfs               systemd
ours         /crib                  /crib.slice
own pod      /crib/POD              /crib.slice/crib-POD.slice
named pod    what the client says   the slice that the client names, at its place
container    PODCGROUP/ID           PODCGROUP/crib-ID.scope
for the OCI  the same path          SLICE:crib:ID
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crib.host.cgroups import expand_slice
from crib.model.errors import Broken, InvalidRequest
from crib.model.ids import SandboxId, is_id
from crib.model.sandbox import SandboxRecord
from crib.model.settings import Settings

_FIELD = "linux.cgroup_parent"
_SCOPE = "crib"


@dataclass(frozen=True, slots=True)
class CgroupNames:
    """By the settings `cgroup_root` and `cgroup_driver`."""

    root: str
    systemd: bool = False

    @classmethod
    def of(cls, settings: Settings) -> CgroupNames:
        return cls(settings.cgroup_root, settings.cgroup_driver == "systemd")

    @property
    def own(self) -> str:
        """The cgroup of all pods that name no parent. Broken when it cannot be a slice's name."""
        if not self.systemd:
            return self.root.rstrip("/")
        try:
            return expand_slice(f"{self._stem}.slice")
        except ValueError as error:
            raise Broken(f"cgroup_root {self.root!r} with the systemd driver: {error}") from error

    def own_pod(self, sandbox: str) -> str:
        """The cgroup of one pod below `own`."""
        return f"{self.own}/{self._stem}-{sandbox}.slice" if self.systemd else f"{self.own}/{sandbox}"

    def pod(self, sandbox: SandboxRecord) -> str:
        """The cgroup that the pod's containers lie below: ours unless the client names one.

        InvalidRequest when that cannot be one.
        """
        parent = sandbox.config.cgroup_parent
        if not parent:
            return self.own_pod(sandbox.id)
        is_slice = parent.endswith(".slice")
        if self.systemd and not is_slice:
            raise InvalidRequest(f"{parent!r} is not a slice, as the systemd driver needs it", field=_FIELD)
        try:
            path = expand_slice(os.path.basename(parent)) if is_slice else parent
        except ValueError as error:
            raise InvalidRequest(str(error), field=_FIELD) from error
        path = "/" + path.strip("/")
        if path == "/" or any(part in ("", ".", "..") or "\0" in part for part in path[1:].split("/")):
            raise InvalidRequest(f"{parent!r} is not the path of a cgroup", field=_FIELD)
        return path

    def below(self, pod_cgroup: str, container: str) -> str:
        """The cgroup of a container, or of an infra process, by its id."""
        return f"{pod_cgroup}/{_SCOPE}-{container}.scope" if self.systemd else f"{pod_cgroup}/{container}"

    def oci_path(self, pod_cgroup: str, container: str) -> str:
        """The same as the OCI spec's `cgroupsPath` has it: with systemd slice, prefix and name."""
        if self.systemd:
            return f"{os.path.basename(pod_cgroup)}:{_SCOPE}:{container}"
        return f"{pod_cgroup}/{container}"

    def moved(self, pod_cgroup: str, asked: str) -> str:
        """Where the runtime makes a container's cgroup by a `cgroupsPath` that is not ours.

        Broken unless that is below the pod's: everything in it is killed with the container, and a pod's
        limits hold for all that its containers do.
        """
        path = asked
        if self.systemd:
            parent, _, rest = asked.partition(":")
            prefix, _, name = rest.partition(":")
            path = f"{pod_cgroup if parent == os.path.basename(pod_cgroup) else parent}/{prefix}-{name}.scope"
        below = path.removeprefix(f"{pod_cgroup}/")
        if below == path or any(part in ("", ".", "..") or "\0" in part for part in below.split("/")):
            raise Broken(f"a container's cgroup cannot be {asked!r}: it must be below {pod_cgroup}")
        return path

    def pods_among(self, names: Iterable[str]) -> Iterator[SandboxId]:
        """The pods to which directories in `own` belong."""
        for name in names:
            pod = name
            if self.systemd:
                pod = name.removeprefix(f"{self._stem}-").removesuffix(".slice")
            if is_id(pod):
                yield SandboxId(pod)

    @property
    def _stem(self) -> str:
        return self.root.strip("/").removesuffix(".slice").replace("/", "-")
