"""Stages of a pod's start that come before there is a sandbox: its volumes.

They are kept by the pod's uid until its sandbox is run, whose timeline then begins with them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from crib.engine.timeline import SandboxTimeline
from crib.model.events import Stage
from crib.model.tallies import Operations
from crib.ports.clocks import Clock

MOST_PODS = 256
"""Pods that got volumes and were not run yet: of more the oldest are forgotten."""


class Beforehand:
    """That of one daemon."""

    def __init__(self, clock: Clock, figures: Operations) -> None:
        self._clock = clock
        self._figures = figures
        self._pods: OrderedDict[str, SandboxTimeline] = OrderedDict()

    def of(self, uid: str) -> SandboxTimeline:
        """To time stages for the pod that will have this uid. Those of an earlier try are forgotten."""
        self._pods.pop(uid, None)
        timeline = self._pods[uid] = SandboxTimeline(self._clock, figures=self._figures)
        while len(self._pods) > MOST_PODS:
            self._pods.popitem(last=False)
        return timeline

    def take(self, uid: str) -> Sequence[Stage]:
        """What was timed for it; from now on it is somebody else's."""
        timeline = self._pods.pop(uid, None)
        return timeline.told().stages if timeline is not None else ()
