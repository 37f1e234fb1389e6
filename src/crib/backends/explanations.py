"""Explains a container's spec. It is made as for a creation, but nothing is created, mounted or run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from crib.backends.environment import SharedLayers
from crib.backends.failures import trying
from crib.host.mounts import look_through
from crib.host.threads import FOREIGN, Job
from crib.model.errors import Broken, CribError
from crib.model.explanation import ExplainedSpec
from crib.model.ids import ContainerId
from crib.model.paths import Paths
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.origins import EARLIER, origins, whole_document
from crib.ports.containers import CreateRequest

_LIMIT = 64 << 20
_INFRA = "/proc/INFRA/ns/pid"
"""Stands for the namespace of an infra process that does not exist yet."""

Gather = Callable[[CreateRequest, str], ContainerInputs]
"""Reads what the recipe needs of a request, given the path at which its image's root can be seen."""


class Explanations:
    """See ContainerRuntime.explain. The layers of the image stay mounted, as after a creation."""

    def __init__(self, paths: Paths, layers: SharedLayers, gather: Gather) -> None:
        self._paths = paths
        self._layers = layers
        self._gather = gather

    async def explain(self, request: CreateRequest) -> ExplainedSpec:
        """The spec that the container was made with, or that it would be made with now."""
        record = request.record
        with trying(f"explanation of container {record.id}"):
            layers = await self._layers.acquire(record.layers)
            job = Job(f"explaining container {record.id}", owner=request.sandbox.id)
            return await FOREIGN.run(job, self._explain, request, layers)

    def _explain(self, request: CreateRequest, layers: Sequence[str]) -> ExplainedSpec:
        made = self._made(request.record.id)
        try:
            inputs = look_through(
                tuple(reversed(layers)), layers[0], lambda root: self._gather(request, root)
            )
            inputs = self._as_made(inputs)
            return ExplainedSpec(made or whole_document(inputs), origins(inputs, made))
        except CribError as error:
            if made is None:
                raise
            return ExplainedSpec(made, {"": f"{EARLIER} (now it would be refused: {error})"})

    def _as_made(self, inputs: ContainerInputs) -> ContainerInputs:
        """With the root in its place, and a name for the pid namespace if no infra process exists yet."""
        pod = inputs.pod
        if inputs.sandbox.config.shares_pid and not pod.pid_namespace and inputs.sandbox.infra is None:
            pod = replace(pod, pid_namespace=_INFRA)
        return replace(inputs, pod=pod, root=self._paths.rootfs(inputs.id))

    def _made(self, container: ContainerId) -> bytes | None:
        """The container's config.json; None when there is none."""
        path = f"{self._paths.container(container)}/config.json"
        if not os.path.exists(path):
            return None
        with open(path, "rb") as file:
            data = file.read(_LIMIT + 1)
        if len(data) > _LIMIT:
            raise Broken(f"{path} is longer than {_LIMIT} bytes")
        return data
