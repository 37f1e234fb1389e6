"""Whose shim a container has: its pod's, or one of its own where the runtime has one for each."""

from __future__ import annotations

import json
import os

from crib.backends.bundle.bundles import Bundles
from crib.backends.shim.environment import ShimEnvironment
from crib.backends.shim.nouns import ShimLost
from crib.backends.shim.shim_notes import read_note
from crib.backends.shim.shims import Shim, Shims
from crib.backends.shim.tasks import TaskService
from crib.host.files import atomic_write
from crib.host.threads import OURS, Job
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord


class ContainerShims:
    """See TaskServices. Starts shims as well."""

    def __init__(self, environment: ShimEnvironment, shims: Shims, bundles: Bundles) -> None:
        self._env = environment
        self._shims = shims
        self._bundles = bundles
        self._own: set[ContainerId] = set()
        """Containers with a shim of their own."""
        self._serves_pods = environment.serves_pods
        """Whether one shim serves a pod; found out with the first container where it is not known."""

    async def of(self, container: ContainerId) -> TaskService:
        """See TaskServices."""
        shim = await self.shim_of(container)
        if shim is None:
            raise ShimLost(f"the shim of container {container} has gone")
        return shim.tasks

    async def shim_of(self, container: ContainerId) -> Shim | None:
        """None where it is gone, or there never was one."""
        return await self._shims.find(await self.instance_of(container))

    async def instance_of(self, container: ContainerId) -> str:
        """The id that its shim was started with."""
        if container in self._own:
            return container
        note = await self._bundles.note(container)
        if not self._serves_pods and await OURS.run(self._job(container), self._has_own, container):
            self._own.add(container)
            return container
        return note.pod if note is not None and note.pod else container

    async def for_pod(self, record: SandboxRecord) -> Shim:
        """The pod's, started in a bundle of the pod's own. CribError, OSError."""
        if (known := await self._shims.find(record.id)) is not None:
            return known
        await OURS.run(self._job(record.id), self._make_bundle, record)
        return await self._shims.start(record.id)

    async def for_create(self, container: ContainerId, pod: SandboxRecord) -> Shim:
        """That in which the container is to be made; its bundle is there. CribError, OSError."""
        if self._serves_pods is False and not self._env.facts.sandbox_container:
            return await self._start_own(container, None)
        shared = await self.for_pod(pod)
        if self._serves_pods:
            return shared
        found = await self._start_own(container, shared)
        if self._serves_pods is None:
            self._serves_pods = found is shared
            if found is not shared and not self._env.facts.sandbox_container:
                await self._shims.end(pod.id)
        return found

    async def forget(self, container: ContainerId) -> None:
        """The container is removed: its own shim ends, if it has one. Safe to repeat."""
        if not self._serves_pods:  # also one whose start nobody heard of
            await self._shims.end(container)
        self._own.discard(container)

    async def _start_own(self, container: ContainerId, shared: Shim | None) -> Shim:
        found = await self._shims.start(container, beside=shared)
        if found is not shared:
            self._own.add(container)
        return found

    def _has_own(self, container: ContainerId) -> bool:
        return read_note(self._shims.bundle(container)) is not None

    def _make_bundle(self, record: SandboxRecord) -> None:
        """Beside those of its containers, where a shim looks for it; with what a shim asks of a pod."""
        bundle = self._shims.bundle(record.id)
        os.makedirs(bundle, mode=0o700, exist_ok=True)
        spec = f"{bundle}/config.json"
        if os.path.exists(spec):  # of the pod's own container
            return
        metadata = record.config.metadata
        annotations = {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": record.id,
            "io.kubernetes.cri.sandbox-name": metadata.name,
            "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
            "io.kubernetes.cri.sandbox-uid": metadata.uid,
        }
        document = {"ociVersion": self._env.facts.oci_version, "annotations": annotations}
        atomic_write(spec, json.dumps(document).encode(), 0o600)

    def _job(self, owner: str) -> Job:
        return Job(f"the shim of {owner}", owner=owner, limit=self._env.settings.verb_timeout)
