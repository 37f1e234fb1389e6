"""What a manifest comes to: plain values that `crib.client.workloads` carries out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from crib.manifest.behaviour_plan import Behaviour, PodBehaviour
from crib.manifest.job_policies import JobPolicy

if TYPE_CHECKING:
    from crib.manifest.claim_plan import ClaimPlan
    from crib.stubs.runtime.v1.api_pb2 import ContainerConfig, PodSandboxConfig
    from crib.wire.docker_config import AuthFile

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
INIT_CONTAINER = "io.crib.init-container"
"""Annotation of containers that have to end before the others start. The CRI has no word for them."""
HOST_PATH_TYPES = (
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
)


@dataclass(frozen=True, slots=True)
class HostDns:
    """The host's /etc/resolv.conf, for pods that add to it."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dirs:
    """Where `crib run` keeps what belongs to pods: volumes and logs, below `root`/UID."""

    root: str

    def pod(self, uid: str) -> str:
        return os.path.join(self.root, uid)

    def logs(self, uid: str) -> str:
        return os.path.join(self.pod(uid), "logs")

    def hosts(self, uid: str) -> str:
        return os.path.join(self.pod(uid), "etc-hosts")

    def volume(self, uid: str, name: str) -> str:
        return os.path.join(self.pod(uid), "volumes", name)

    def secrets(self, uid: str, name: str) -> str:
        """In memory: what the driver of a volume is told."""
        return os.path.join(self.pod(uid), "secrets", name)

    def sub_path(self, uid: str, container: str, index: int) -> str:
        return os.path.join(self.pod(uid), "subpaths", container, str(index))


@dataclass(frozen=True, slots=True)
class Site:
    """What a translation needs to know of the node. `memory` is the node's RAM in bytes."""

    dirs: Dirs
    memory: int
    dns: HostDns = HostDns()
    seccomp_root: str = "/var/lib/kubelet/seccomp"
    cpus: int = 1
    node: str = ""
    """The node's name."""
    addresses: tuple[str, ...] = ()
    """The node's own, the one that others reach it by first."""
    cluster_domain: str = "cluster.local"
    hide_secrets: bool = False
    """Whether plans are only to be shown, without what Secrets hold."""


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file of a volume that is made of a manifest; `path` is relative."""

    path: str
    content: bytes = field(repr=False)
    mode: int


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """A volume of the pod. `path` is on the host (empty for images), `size` bytes (0: no limit).

    `files` of the kind of that name are made with the pod. `group` becomes the owner of what is in it
    (fsGroup); with `group_always` it is set again, however much that is. With `claim` it is a volume of the
    runtime: the path is a mark of `late` until the runtime has told it.
    """

    name: str
    kind: Literal["emptyDir", "hostPath", "image", "files", "claim"]
    path: str = ""
    host_type: str = ""
    memory: bool = False
    size: int = 0
    image: str = ""
    pull: PullPolicy = "IfNotPresent"
    files: tuple[VolumeFile, ...] = ()
    claim: ClaimPlan | None = None
    read_only: bool = False
    group: int | None = None
    group_always: bool = True


@dataclass(frozen=True, slots=True)
class SubPathPlan:
    """A mount of a part of a volume: `inside` below `volume` is bound to `target`, which is then mounted."""

    mount: int  # index in the container's mounts
    volume: str
    inside: str
    target: str
    generated: bool = False
    """Whether the volume holds files of the manifest, in a kubelet's layout."""


@dataclass(frozen=True, slots=True)
class HostsPlan:
    """The pod's own /etc/hosts. `names` are the pod's (none on the host's network), `aliases` (IP, NAME…)."""

    path: str
    names: tuple[str, ...]
    aliases: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container. A sidecar is an init container that keeps running (restartPolicy: Always)."""

    name: str
    image: str
    pull: PullPolicy
    config: ContainerConfig
    must_not_be_root: bool = False
    sidecar: bool = False
    sub_paths: tuple[SubPathPlan, ...] = ()
    behaviour: Behaviour = field(default_factory=Behaviour)


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod: the sandbox's configuration, its containers in order, and notes for the person."""

    name: str
    namespace: str
    uid: str
    directory: str
    sandbox: PodSandboxConfig
    handler: str
    init_containers: tuple[ContainerPlan, ...]
    containers: tuple[ContainerPlan, ...]
    volumes: tuple[VolumePlan, ...]
    notes: tuple[str, ...] = field(default=())
    hosts: HostsPlan | None = None
    credentials: tuple[AuthFile, ...] = field(default=(), repr=False)
    """For registries, the first that fits counts."""
    behaviour: PodBehaviour = field(default_factory=PodBehaviour)
    unkept: tuple[str, ...] = ()
    """Paths of fields that have an effect only while somebody keeps the pod up."""
    account: str = ""
    """The service account's name."""
    document: str = ""
    """A manifest that comes to this pod again, with its uid: what is kept of it."""
    own_resources: bool = False
    """Whether the manifest says what the pod as a whole may use; else that is made of its containers'."""
    job: str = ""
    """The uid of the Job that it is a run of."""

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"

    def every_container(self) -> tuple[ContainerPlan, ...]:
        return self.init_containers + self.containers


@dataclass(frozen=True, slots=True)
class JobTurn:
    """One try of one run of a Job: both are counted from 0."""

    run: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A Job. Without `completions` it is over when one of its runs has succeeded and none is active.

    Times are in seconds. `pod_of` makes the pod of a turn; ManifestError.
    """

    name: str
    namespace: str
    uid: str
    completions: int | None
    parallelism: int
    pod_of: Callable[[JobTurn], PodPlan] = field(repr=False, compare=False)
    backoff_limit: int = 6
    deadline: int | None = None
    ttl: int | None = None
    policy: JobPolicy = field(default_factory=JobPolicy)
    suspended: bool = False
    """It waits for somebody to start it."""
    document: str = field(default="", repr=False)
    """A manifest that comes to this Job again, with its uid."""
    unkept: tuple[str, ...] = ()
    """What has no effect, or less, while nobody looks after it: a line for each."""

    @property
    def label(self) -> str:
        return f"{self.namespace}/{self.name}"

    def first(self) -> list[JobTurn]:
        """The turns that it begins with."""
        if self.suspended:
            return []
        return [JobTurn(run) for run in range(min(self.parallelism, self.completions or self.parallelism))]


@dataclass(frozen=True, slots=True)
class Plans:
    """What manifests come to. `notes` are about what belongs to no pod; each pod has its own.

    `pods` have those among them that the jobs begin with.
    """

    pods: tuple[PodPlan, ...]
    notes: tuple[str, ...] = ()
    jobs: tuple[JobPlan, ...] = ()

    def alone(self) -> list[PodPlan]:
        """The pods that belong to no Job."""
        return [plan for plan in self.pods if not plan.job]
