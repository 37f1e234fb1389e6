"""What the parts of one handler work with."""

from __future__ import annotations

from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.container_bundles import ContainerBundles
from crib.backends.environment import SharedLayers
from crib.backends.pods.endings import Endings
from crib.backends.pods.oom import OomKills
from crib.backends.pods.signals import Signals
from crib.backends.pods.usage import UsageReader
from crib.backends.shim.container_shims import ContainerShims
from crib.backends.shim.environment import ShimEnvironment
from crib.backends.shim.events import EventsServer
from crib.backends.shim.first_processes import FirstProcesses
from crib.backends.shim.shims import Shims


@dataclass(frozen=True, slots=True)
class ShimTools:
    """One of each: most of them remember something of every pod or container."""

    environment: ShimEnvironment
    layers: SharedLayers
    bundles: Bundles
    making: ContainerBundles
    shims: Shims
    services: ContainerShims
    io: FirstProcesses
    signals: Signals
    oom: OomKills
    endings: Endings
    events: EventsServer
    usage: UsageReader
