"""What a fake runtime has: pods, containers and images in memory, and programs that do as they are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from crib.stubs.runtime.v1 import api_pb2 as cri


@dataclass(frozen=True, slots=True)
class FakeProgram:
    """A command: it writes these, and ends with `code` after some seconds. None: not before it is stopped."""

    out: bytes = b""
    err: bytes = b""
    code: int | None = 0
    seconds: float = 0.0
    refusal: str = ""
    """Why it cannot be started, if it cannot."""
    cats: bool = False
    """Over streams: it first writes back what it reads, to its end."""


Script = FakeProgram | Callable[[Sequence[str]], FakeProgram]
"""A program, or what makes one of the command."""


@dataclass
class FakeWorld:
    """Tests look at it and change it. Messages are the CRI's, by id."""

    name: str = "fake"
    version: str = "1.0"
    pods: dict[str, cri.PodSandbox] = field(default_factory=dict)
    configs: dict[str, cri.PodSandboxConfig] = field(default_factory=dict)
    """Of pods."""
    containers: dict[str, cri.ContainerStatus] = field(default_factory=dict)
    container_configs: dict[str, cri.ContainerConfig] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    """A container's pod."""
    images: dict[str, cri.Image] = field(default_factory=dict)
    registry: set[str] | None = None
    """Names that can be pulled; None: all."""
    programs: dict[str, Script] = field(default_factory=dict)
    """By a command's first words, as a shell reads them (`"sh -c 'exit 3'"`). The longest counts.
    One that is not here runs until it is stopped as a container's, and succeeds silently in `exec`."""
    conditions: list[cri.RuntimeCondition] = field(
        default_factory=lambda: [
            cri.RuntimeCondition(type=name, status=True) for name in ("RuntimeReady", "NetworkReady")
        ]
    )
    info: str = "{}"
    """JSON of a container's verbose status."""
    address: str = "10.0.0.7"
    """Of each pod."""
    ports: dict[int, Callable[[bytes], bytes]] = field(default_factory=dict)
    """What listens in each pod: the answer to each piece of data that comes."""
    inputs: dict[str, bytearray] = field(default_factory=dict)
    """What containers were given to read by those who attached to them."""
    subscribers: list[asyncio.Queue[cri.ContainerEventResponse]] = field(default_factory=list)
    """Of those who follow events."""
    attached: dict[str, list[asyncio.Queue[tuple[str, bytes] | None]]] = field(default_factory=dict)
    """To each container: stream and data, and None at its end."""
    ids: int = 0
    """How many were given out."""

    def new_id(self) -> str:
        """An id with no letter in it, so that no name in a test ("db") can be the beginning of one."""
        self.ids += 1
        return f"{self.ids:08}" * 8

    def add_image(self, name: str, number: int | None = None, uid: int | None = 0) -> str:
        """Have an image on the node; its id. `number` makes the id, `uid` is the image's user."""
        number = zlib.crc32(name.encode()) if number is None else number
        image_id = f"sha256:{number:064x}"
        image = cri.Image(id=image_id, repo_tags=[name], size=1_500_000)
        if uid is not None:
            image.uid.value = uid
        self.images[image_id] = image
        return image_id

    def find_image(self, name: str) -> cri.Image | None:
        """By name or id."""
        for image in self.images.values():
            if name in (image.id, *image.repo_tags, *image.repo_digests):
                return image
        return None

    def program(self, argv: Sequence[str], other: FakeProgram) -> FakeProgram:
        """What a command does; `other` if nobody said."""
        for length in range(len(argv), 0, -1):
            if script := self.programs.get(shlex.join(argv[:length])):
                return script if isinstance(script, FakeProgram) else script(argv)
        return other

    def log_path(self, container_id: str) -> str:
        """Where a container's log is; empty without one."""
        directory = self.configs[self.owner[container_id]].log_directory
        name = self.container_configs[container_id].log_path
        return os.path.join(directory, name) if directory and name else ""

    def write_log(self, container_id: str, stream: str, data: bytes) -> None:
        """Add lines to a container's log, if it has one."""
        path = self.log_path(container_id)
        if not (path and data):
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"
        with open(path, "ab") as log:
            for line in data.removesuffix(b"\n").split(b"\n"):
                log.write(f"{at} {stream} F ".encode() + line + b"\n")

    @contextlib.contextmanager
    def listening(self, container_id: str) -> Iterator[asyncio.Queue[tuple[str, bytes] | None]]:
        """What a container's program writes from now on; in the thread of the server."""
        queue: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self.attached.setdefault(container_id, []).append(queue)
        try:
            yield queue
        finally:
            self.attached[container_id].remove(queue)

    def said(self, container_id: str, stream: str, data: bytes) -> None:
        """A program writes: to the log, and to those who are attached; in the thread of the server."""
        self.write_log(container_id, stream, data)
        for queue in self.attached.get(container_id, ()):
            queue.put_nowait((stream, data))

    def exited(self, container_id: str, code: int) -> None:
        """End a container's program; in the thread of the server."""
        status = self.containers[container_id]
        status.state = cri.CONTAINER_EXITED
        status.exit_code = code
        status.finished_at = time.time_ns()
        status.reason = "Completed" if code == 0 else "Error"
        for queue in self.attached.get(container_id, ()):
            queue.put_nowait(None)
        self.tell(container_id, cri.CONTAINER_STOPPED_EVENT)

    def tell(self, container_id: str, kind: cri.ContainerEventType.ValueType) -> None:
        """An event for all who follow; in the thread of the server."""
        pod_id = self.owner.get(container_id, container_id)
        event = cri.ContainerEventResponse(
            container_id=container_id,
            container_event_type=kind,
            created_at=time.time_ns(),
            containers_statuses=[s for c, s in self.containers.items() if self.owner.get(c) == pod_id],
        )
        if pod_id in self.pods:
            event.pod_sandbox_status.CopyFrom(self.pod_status(pod_id))
        for queue in self.subscribers:
            queue.put_nowait(event)

    def pod_status(self, pod_id: str) -> cri.PodSandboxStatus:
        """A pod's status as its runtime tells it."""
        pod, config = self.pods[pod_id], self.configs[pod_id]
        options = config.linux.security_context.namespace_options
        address = "" if options.network == cri.NODE else self.address
        return cri.PodSandboxStatus(
            id=pod.id,
            metadata=pod.metadata,
            state=pod.state,
            created_at=pod.created_at,
            network=cri.PodSandboxNetworkStatus(ip=address),
            linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
            labels=pod.labels,
            annotations=pod.annotations,
            runtime_handler=pod.runtime_handler,
        )
