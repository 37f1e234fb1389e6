"""All that a container's OCI spec is made from.

Read beforehand, so that the recipe needs no files and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from crib.model.container import ContainerConfig
from crib.model.facts import HandlerFacts, HostFacts, RootfsFacts
from crib.model.ids import ContainerId
from crib.model.image import ImageConfig
from crib.model.sandbox import SandboxRecord


@dataclass(frozen=True, slots=True)
class HostDevice:
    """A device node of the host (mknod(2)): `kind` is `c` or `b`, `mode` the permission bits."""

    path: str
    """Where it shall be in the container."""
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class PodPaths:
    """What the pod has ready for its containers; empty where it has none (host namespaces)."""

    hosts: str
    hostname: str
    resolv_conf: str
    shm: str
    net_namespace: str
    ipc_namespace: str
    uts_namespace: str
    pid_namespace: str = ""


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """The inputs of `container_spec`."""

    id: ContainerId
    config: ContainerConfig
    sandbox: SandboxRecord
    image: ImageConfig
    host: HostFacts
    handler: HandlerFacts
    rootfs: RootfsFacts
    pod: PodPaths
    root: str
    """Absolute path of the mounted root."""
    cgroups_path: str
    target_pid: int = 0
    """First process of the container whose pid namespace is joined (NamespaceMode TARGET)."""
    devices: tuple[HostDevice, ...] = ()
    """`config.devices`, found on the host; for a privileged container all of the host's."""
    seccomp_profile: bytes | None = None
    """Content of the localhost profile that `config.security.seccomp` names."""
    seccomp_filter: str = ""
    """What the runtime made of the same seccomp profile before, in base64; empty lets it compile."""
    default_hostname: str = ""
    """The node's, for pods on the host's network."""

    @property
    def privileged(self) -> bool:
        """The question that each author asks."""
        return self.config.security.privileged
