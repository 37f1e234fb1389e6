"""What the parts of one handler work with."""

from __future__ import annotations

from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.container_bundles import ContainerBundles
from crib.backends.docker.environment import DockerEnvironment
from crib.backends.docker.images import EngineImages
from crib.backends.docker.known import KnownContainers
from crib.backends.docker.logs import LogCopies
from crib.backends.environment import SharedLayers
from crib.backends.pods.endings import Endings
from crib.backends.pods.oom import OomKills
from crib.backends.pods.signals import Signals
from crib.backends.pods.usage import UsageReader


@dataclass(frozen=True, slots=True)
class DockerTools:
    """One of each: most of them remember something of every pod or container."""

    environment: DockerEnvironment
    layers: SharedLayers
    bundles: Bundles
    making: ContainerBundles
    images: EngineImages
    containers: KnownContainers
    logs: LogCopies
    signals: Signals
    oom: OomKills
    endings: Endings
    usage: UsageReader
