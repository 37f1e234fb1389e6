"""How much of everything there is at this moment. It is read on the loop, and waits for nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from crib.engine.admission import Load
from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.model.container import ContainerState
from crib.model.facts import Vitals, WorkerFigures
from crib.model.sandbox import SandboxState

STUCK_SECONDS = 30.0
"""Work on a pod or container that takes longer counts as stuck; a start takes a hundredth of it."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """All of it."""

    pods: Mapping[str, int]
    """By state, those that lists hide included."""
    containers: Mapping[str, int]
    images: int
    layers: int
    layer_bytes: int
    load: Load
    tasks: Mapping[str, int]
    """By kind, as `tasks.keeper` has them."""
    stuck: Sequence[str]
    """Names of the work on pods and containers that takes too long."""
    left: int
    """Objects that could not be taken away, and are tried again."""
    faults: int
    """What is wrong with the node: nothing new is made meanwhile."""
    volumes: Mapping[str, int]
    """By kind, those that are half-made included."""
    volume_uses: Mapping[str, int]
    subscribers: int
    worker: WorkerFigures
    vitals: Vitals


def gauges(core: Core, catalogue: Catalogue) -> Gauges:
    """What a node has now."""
    layers = {layer.diff_id: layer.size for image in catalogue for layer in image.layers}
    late = time.monotonic() - STUCK_SECONDS
    left = core.retries.objects()
    return Gauges(
        pods=_counted(SandboxState, (row.state for row in core.sandboxes)),
        containers=_counted(ContainerState, (row.state for row in core.containers)),
        images=len(catalogue),
        layers=len(layers),
        layer_bytes=sum(layers.values()),
        load=core.admission.load,
        tasks=core.keeper.sizes,
        stuck=[
            work.name for work in core.keeper.works() if work.of and work.began < late and work.of not in left
        ],
        left=len(left),
        faults=len(core.notices.faults),
        volumes=Counter(row.spec.kind for row in core.volumes),
        volume_uses=Counter(row.spec.kind for row in core.volumes for _ in row.uses),
        subscribers=core.events.subscribers,
        worker=core.ports.images.worker,
        vitals=core.ports.vitals(),
    )


def _counted(states: Iterable[str], found: Iterable[str]) -> dict[str, int]:
    """How often each was found, also those that were not."""
    counts = dict.fromkeys(states, 0)
    for state in found:
        counts[state] += 1
    return counts
