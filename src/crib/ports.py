"""The seams, on one page: what the verbs (engine) need of the hands (backends).

Each port has a fake under tests/fakes that passes the same contract suite as the real thing. An
implementation turns whatever goes wrong into a `CribError` that names what was tried. Every removing or
stopping method is idempotent: what is not there counts as removed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from crib.ends import ByteStream, Session
from crib.model.container import ContainerRecord, ContainerUser, Exit
from crib.model.explanation import ExplainedSpec
from crib.model.facts import HandlerFacts, LayerMounting, Readiness
from crib.model.finding import Finding
from crib.model.ids import ContainerId, Digest, ImageId, SandboxId
from crib.model.image import (
    DiskSpace,
    ExportedImage,
    FetchedImage,
    FilesystemUsage,
    ImageConfig,
    ImageDocuments,
    ImageRecord,
    Layer,
    Progress,
    PullOrder,
    SuspectImage,
)
from crib.model.network import NetworkInfo, PodNetworkView
from crib.model.registry import RegistryHost
from crib.model.sandbox import (
    DnsConfig,
    NetworkAttachment,
    PodMetadata,
    PortMapping,
    ProcessIdentity,
    Resources,
    SandboxRecord,
)
from crib.model.stats import ContainerUsage, InterfaceUsage, PodUsage
from crib.model.streams import AttachRequest, ExecProcess, PodAddress

Clock = Callable[[], int]
"""Nanoseconds since the epoch; tests turn it by hand."""

StageTimer = Callable[[str, str], AbstractContextManager[object]]
"""Gives the context manager that times one stage, by name and subject, of a pod's start (engine.timeline)."""


@dataclass(frozen=True, slots=True)
class CreatedContainer:
    """What Handler.create made: the first process waits to be started."""

    process: ProcessIdentity
    monitor: ProcessIdentity
    user: ContainerUser
    stop_signal: int = 0  # 0: the record's


@dataclass(frozen=True, slots=True)
class Observation:
    """What the world says of a container, for recovery; `status` is the runtime's word, or `gone`."""

    status: str
    exit: Exit | None
    monitor_alive: bool


class Handler(Protocol):
    """Runs pods and containers of one RuntimeClass handler."""

    @property
    def facts(self) -> HandlerFacts: ...

    async def readiness(self) -> Readiness:
        """Whether the programs that it needs are there; looked at every few seconds at most."""
        ...

    async def prepare_pod(self, record: SandboxRecord, stage: StageTimer) -> ProcessIdentity | None:
        """Make pod files, pinned namespaces, sysctls, shm and cgroup; the infra process if pids are shared.
        Before anything is made, sysctls are checked: namespaced ones only, and never the host's.
        """
        ...

    async def stop_pod(self, record: SandboxRecord) -> None:
        """End the infra process, unpin the namespaces, unmount shm."""
        ...

    async def remove_pod(self, record: SandboxRecord) -> None:
        """`stop_pod`, then the pod's files, and its cgroup if we made it."""
        ...

    def netns_path(self, record: SandboxRecord) -> str:
        """Where the pod's network namespace is pinned."""
        ...

    async def create(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig, stage: StageTimer
    ) -> CreatedContainer:
        """Mount the root, write the bundle, run monitor and runtime's create. `record` is CREATING."""
        ...

    async def explain(
        self, record: ContainerRecord, sandbox: SandboxRecord, image: ImageConfig
    ) -> ExplainedSpec:
        """The spec that `create` made, or would make now, and where its fields are from. Makes nothing."""
        ...

    def made_spec(self, record: ContainerRecord | SandboxRecord) -> bytes:
        """The OCI spec that it was made with, empty when that is gone. Of a pod without a process of its own:
        one with its namespaces and nothing else. Only those are named that are there.
        """
        ...

    async def start(self, record: ContainerRecord) -> None:
        """Returns when the container's program runs (execve(2) has happened), or has ended already."""
        ...

    async def signal(self, record: ContainerRecord, signum: int, *, everyone: bool = False) -> None:
        """Signal the first process, or every process of the container. Gone already is fine."""
        ...

    async def exec(self, record: ContainerRecord, process: ExecProcess) -> Session:
        """Run a command. WrongState when the container does not run, Broken in the runtime's words."""
        ...

    async def attach(self, record: ContainerRecord, wanted: AttachRequest) -> Session:
        """Join the streams of the container's first process. Several may; none of them slows it."""
        ...

    async def dial(
        self, record: SandboxRecord, containers: Collection[ContainerRecord], address: PodAddress
    ) -> ByteStream:
        """Connect to something in the pod; `containers` are its running ones. Unavailable when it refuses.

        A port: on the pod's loopback, IPv4 first, then IPv6. Of UDP each message is one datagram, framed as
        wire.datagrams says.
        """
        ...

    async def reopen_log(self, record: ContainerRecord) -> None: ...

    async def rotate_log(self, record: ContainerRecord, size_max: int, files: int) -> bool:
        """Set the log aside if it has more than `size_max` bytes, and keep `files` in all; whether it had."""
        ...

    async def update(self, record: ContainerRecord, resources: Resources) -> None:
        """Put `resources` in force instead of `record.resources`, in a created or running container.

        All or nothing: what was changed before something failed is changed back. InvalidRequest for what
        cannot be asked for here, WrongState for a memory limit below what is in use.
        """
        ...

    async def update_pod(self, record: SandboxRecord) -> None:
        """Put the record's overhead and resources in force on the pod's cgroup, if that is ours.

        A cgroup that the client named (cgroup_parent) is the client's to limit.
        """
        ...

    async def delete(self, record: ContainerRecord) -> None:
        """Kill what is left, unmount the root, remove bundle, writable layer, exit file, sockets, cgroup."""
        ...

    def exits(self) -> AsyncIterator[Exit]:
        """First the exits that are on file, then new ones as they happen; ends never."""
        ...

    async def observe(self, record: ContainerRecord) -> Observation: ...

    async def pod_alive(self, record: SandboxRecord) -> bool:
        """Whether the pod's namespaces, /dev/shm and infra process are there."""
        ...

    def lost_pods(self, ready: Callable[[], Iterable[SandboxRecord]]) -> AsyncIterator[SandboxId]:
        """Of those that `ready` gives, each that is no longer alive: at once, then as it happens; ends never.

        One may be told of again; that it was stopped meanwhile is the caller's to see.
        """
        ...

    async def container_usage(self, record: ContainerRecord, sandbox: SandboxRecord) -> ContainerUsage: ...

    async def pod_usage(self, record: SandboxRecord) -> PodUsage:
        """Of the pod's cgroup; interfaces come from PodNetworks.usage."""
        ...

    async def sweep(self, known: Callable[[], Collection[str]], *, dry: bool = False) -> Sequence[str]:
        """Remove what of ours is of no known id, asked for after the look, and contained commands of an
        earlier daemon; says what was, or with `dry` would be.
        """
        ...

    async def odd_logs(
        self, sandboxes: Iterable[SandboxRecord], containers: Iterable[ContainerRecord]
    ) -> Sequence[tuple[str, str]]:
        """Paths of logs that are nobody's, or that are missing, each with what is odd about it."""
        ...

    async def dismantle(self) -> None:
        """Undo what was set up for all pods. Called when there is no pod left, by a wipe."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What a network needs to know of a pod."""

    id: SandboxId
    metadata: PodMetadata
    netns: str
    """Path of the pinned namespace; it may be gone already when detaching."""
    port_mappings: tuple[PortMapping, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    cgroup_parent: str = ""
    conf_dir: str = ""
    """Where the CNI configuration of the pod's handler is; empty: where that of the node is."""


class PodNetworks(Protocol):
    """Attaches pods to their network: the built-in bridge, or CNI."""

    async def attach(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Waits, within bounds, for a network that is just coming up. What fails is undone by `detach`."""
        ...

    async def resume(self, pod: PodNetwork) -> NetworkAttachment | None:
        """Put back what was lost, while no daemon ran, of an attached pod; what it has now if that is new."""
        ...

    async def detach(self, pod: PodNetwork) -> None:
        """Give back addresses, ports and interfaces. Safe when nothing or only half was attached."""
        ...

    async def check(self, pod: PodNetwork) -> str:
        """What is not as `attach` made it; empty when all is, or when the network cannot tell."""
        ...

    async def repair(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        """Make an attached pod's network anew in its namespace, with the same addresses if possible."""
        ...

    async def readiness(self) -> Readiness: ...

    async def configure(self, pod_cidr: str) -> None:
        """CRI UpdateRuntimeConfig: the node's pod range is now known, and remembered from now on."""
        ...

    async def networks(self) -> Sequence[NetworkInfo]:
        """The networks of this node; those that pods are attached to come first."""
        ...

    async def view(self, pod: PodNetwork) -> PodNetworkView:
        """The pod's network as the kernel has it now."""
        ...

    def resolver(self, namespace: str) -> DnsConfig | None:
        """What the network wants pods of a namespace to ask for names first; None: nothing."""
        ...

    async def usage(self, pod: PodNetwork) -> Sequence[InterfaceUsage]: ...

    async def sweep(
        self, known: Collection[SandboxId], *, everything: bool = False, dry: bool = False
    ) -> Sequence[str]:
        """Release what is held for pods that are not known; says what was, or with `dry` would be, released.

        Where a network is shared with other runtimes, only what is certainly ours or left from before the
        boot goes, unless `everything` was asked for.
        """
        ...

    async def dismantle(self) -> None:
        """Remove what all pods share (bridge, rules). Called when there is no pod left, by a wipe."""
        ...

    async def close(self) -> None: ...


ProgressSink = Callable[[Progress], None]


class Images(Protocol):
    """The image store and the worker that fills it."""

    @property
    def mounting(self) -> LayerMounting: ...

    async def pull(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        """Resolve and fetch; layers that are here are not fetched again. New ones are synced."""
        ...

    async def resolve(self, order: PullOrder, progress: ProgressSink) -> FetchedImage:
        """What a pull would bring, without layers: for those who look before they take."""
        ...

    async def hosts(self, order: PullOrder) -> Sequence[RegistryHost]:
        """Who is asked for the image, in this order, and with what. InvalidRequest when it is blocked."""
        ...

    async def check(self, layer: Layer) -> str:
        """What is wrong with the layer on disk; empty when it is as it was written."""
        ...

    async def export(self, path: str, images: Sequence[ExportedImage], archive_format: str) -> int:
        """To a new file: `oci`, a tar of an OCI layout, or `docker`; its bytes. `sweep` spares the layers."""
        ...

    async def verify(self, suspect: SuspectImage) -> str:
        """Why the image is not what `suspect` asks for; empty when it is."""
        ...

    async def space(self) -> DiskSpace:
        """Of the file system that holds the layers."""
        ...

    async def import_archive(self, path: str, progress: ProgressSink) -> Sequence[FetchedImage]:
        """Read an OCI layout directory, an OCI archive or a `docker save` archive."""
        ...

    async def present(self) -> Collection[Digest]:
        """The layers that are on disk."""
        ...

    async def sweep(self, keep: Collection[Digest], *, dry: bool = False) -> Sequence[Digest]:
        """Remove layers not in `keep` (unmounting them) and stale staging files; with `dry` tell only."""
        ...

    async def usage(self) -> FilesystemUsage: ...

    async def writable_usage(self) -> FilesystemUsage:
        """Space taken by the containers' writable layers together."""
        ...

    async def dismantle(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class AllRecords:
    """Everything that is kept, as read at start."""

    sandboxes: Sequence[SandboxRecord]
    containers: Sequence[ContainerRecord]
    images: Sequence[ImageRecord]
    lost_images: Sequence[str] = ()
    """What is known of images whose rows were lost: layers that no row names may be theirs."""


class Records(Protocol):
    """Durable rows: those of pods survive a kill once a call returns. What cannot be kept `watch` tells."""

    def load(self) -> AllRecords:
        """Read all rows; one that cannot be read is set aside and logged, never fatal."""
        ...

    def watch(self, told: Callable[[str], None], mended: Callable[[str], None]) -> None:
        """Tell from now on why rows cannot be kept (nothing: all can), and what damage was mended."""
        ...

    def put_sandbox(self, record: SandboxRecord) -> None: ...

    def delete_sandbox(self, sandbox: SandboxId) -> None: ...

    def put_container(self, record: ContainerRecord) -> None: ...

    def delete_container(self, container: ContainerId) -> None: ...

    async def put_image(self, record: ImageRecord, documents: ImageDocuments | None = None) -> None:
        """Synced to disk: after a power cut no image is listed whose layers are not there.

        Without `documents` those that were written earlier stay.
        """
        ...

    async def image_documents(self, image: ImageId) -> ImageDocuments:
        """The image's documents; empty ones when there are none."""
        ...

    async def delete_image(self, image: ImageId) -> None:
        """Synced as well, or tried until it is."""
        ...

    async def check(self) -> Sequence[Finding]:
        """What is damaged, unreadable or was set aside; nothing is changed."""
        ...

    def close(self) -> None: ...
