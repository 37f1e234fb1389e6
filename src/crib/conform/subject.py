"""The runtime under test: its connection, what it says it can do, and what all cases of a run share."""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crib.client import images, pods
from crib.client.errors import ClientError, NotOffered
from crib.stubs.runtime.v1 import api_pb2 as pb

if TYPE_CHECKING:
    from crib.client import Connection
    from crib.client.pods import Pod

LABEL = "io.crib.conform"
"""What every pod and container of a run is labelled with; the value is the run."""
NAMESPACE = "crib-conform"
CGROUP = "cribconform"
"""What the names of runs' cgroups begin with."""
DEFAULT_IMAGE = "registry.k8s.io/e2e-test-images/busybox:1.29-4"
CLEAN_LIMIT = 120.0
"""Seconds for the removal of what is left at the end of a run."""
REMOVERS = 8


@dataclass(slots=True)
class Subject:
    """One runtime in one run. `directory` is the run's own, for logs and mounts."""

    connection: Connection
    directory: str
    image: str = DEFAULT_IMAGE
    pull_image: str = ""
    handler: str = ""
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    version: pb.VersionResponse = field(default_factory=pb.VersionResponse)
    status: pb.StatusResponse = field(default_factory=pb.StatusResponse)
    systemd: bool = False
    """Whether cgroup parents are slices of systemd."""
    pulling: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a case while it counts on the image that is pulled and removed."""
    _shared: Pod | None = None
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare(self) -> None:
        """Ask what it is and what it can do, and see that the image is there. ClientError."""
        call, runtime = self.connection.call, self.connection.runtime
        self.version = await call(runtime.Version, pb.VersionRequest())
        self.status = await call(runtime.Status, pb.StatusRequest())
        try:
            config = await call(runtime.RuntimeConfig, pb.RuntimeConfigRequest())
            self.systemd = config.linux.cgroup_driver == pb.SYSTEMD and config.HasField("linux")
        except NotOffered:
            pass  # an older runtime: its driver is asked for by nobody, and cgroupfs is its default
        if await images.find(self.connection, self.image) is None:
            try:
                await images.pull(self.connection, self.image)
            except ClientError as error:
                raise ClientError(
                    f"image {self.image} is not there; name a busybox with --image ({error})"
                ) from error

    def feature(self, name: str) -> bool:
        """Whether the runtime, or the handler of this run, says that it offers it (Status)."""
        if name in pb.RuntimeFeatures.DESCRIPTOR.fields_by_name:
            return bool(getattr(self.status.features, name))
        handlers = [one for one in self.status.runtime_handlers if one.name == self.handler]
        return bool(handlers and getattr(handlers[0].features, name))

    def pod_config(self, name: str) -> pb.PodSandboxConfig:
        """A pod as a kubelet describes it, labelled as ours. Its log directory exists."""
        uid = secrets.token_hex(8)
        logs = os.path.join(self.directory, "logs", uid)
        os.makedirs(logs)
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
            hostname=f"conform-{uid[:8]}",
            log_directory=logs,
            labels={LABEL: self.run, "io.kubernetes.pod.uid": uid},
            annotations={"conform/case": name},
            linux=pb.LinuxPodSandboxConfig(
                cgroup_parent=self._cgroup_parent(uid),
                security_context=pb.LinuxSandboxSecurityContext(
                    namespace_options=pb.NamespaceOption(pid=pb.CONTAINER), seccomp=pb.SecurityProfile()
                ),
            ),
        )

    @property
    def cgroup(self) -> str:
        """The parent of all pods' parents; it is ours, as pods' parents are the kubelet's."""
        return f"{CGROUP}{self.run}.slice" if self.systemd else f"{CGROUP}{self.run}"

    def _cgroup_parent(self, uid: str) -> str:
        """A dash in a slice's name is a level of the tree (systemd.slice(5))."""
        return f"{CGROUP}{self.run}-pod{uid}.slice" if self.systemd else f"/{self.cgroup}/pod{uid}"

    async def shared_pod(self) -> Pod:
        """One plain pod for all cases that need no pod of their own: nobody may stop or change it."""
        async with self._making:
            if self._shared is None:
                self._shared = await pods.run_sandbox(
                    self.connection, self.pod_config("shared"), self.handler
                )
            return self._shared

    async def clean(self, run: str = "") -> list[str]:
        """Remove every pod of a run, or of all runs that were ever made; what failed is given back."""
        pods_of_run = await self._pods_of(run)
        gate = asyncio.Semaphore(REMOVERS)

        async def one(pod: pb.PodSandbox) -> str:
            async with gate:
                error = await self._end_pod(pod.id)
                return f"pod {pod.metadata.name} ({pod.id[:12]}) was not removed: {error}" if error else ""

        return [failure for failure in await asyncio.gather(*map(one, pods_of_run)) if failure]

    async def _end_pod(self, pod_id: str) -> ClientError | None:
        """Containers are killed first: the stop of a pod may wait for those that ignore signals."""
        call, runtime = self.connection.call, self.connection.runtime
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod_id))
        try:
            for container in (await call(runtime.ListContainers, request)).containers:
                await pods.stop_container(self.connection, container.id, 0)
        except ClientError:
            pass  # the pod's removal says what is wrong
        return await pods.discard(self.connection, pod_id)

    async def _pods_of(self, run: str) -> list[pb.PodSandbox]:
        selector = {LABEL: run} if run else {}
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=selector))
        reply = await self.connection.call(self.connection.runtime.ListPodSandbox, request)
        return [pod for pod in reply.items if LABEL in pod.labels and run in ("", pod.labels[LABEL])]
