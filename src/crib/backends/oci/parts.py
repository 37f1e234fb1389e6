"""What the ports of one handler share."""

from __future__ import annotations

from dataclasses import dataclass

from crib.backends.bundle.bundles import Bundles
from crib.backends.container_bundles import ContainerBundles
from crib.backends.environment import SharedLayers
from crib.backends.oci.containers import Containers
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.exits import Exits
from crib.backends.oci.infra import InfraContainers
from crib.backends.oci.inside_signals import OciSignals
from crib.backends.oci.restores import Restores
from crib.backends.oci.seccomp_cache import SeccompFilters
from crib.backends.pods.endings import Endings
from crib.backends.pods.oom import OomKills
from crib.backends.pods.oom_causes import OomCauses
from crib.backends.pods.pods import Pods
from crib.backends.pods.usage import UsageReader
from crib.host.cgroup_stats import StatsReader
from crib.host.memory_limits import MemoryLimits


@dataclass(frozen=True, slots=True)
class HandlerParts:
    """One of each: most of them remember something of every pod or container."""

    environment: OciEnvironment
    layers: SharedLayers
    bundles: Bundles
    pods: Pods
    making: ContainerBundles
    containers: Containers
    signals: OciSignals
    exits: Exits
    usage: UsageReader
    oom: OomKills
    restores: Restores


def open_parts(environment: OciEnvironment, layers: SharedLayers) -> HandlerParts:
    """Makes them; nothing is read or started yet."""
    bundles = Bundles(environment.paths)
    stats = StatsReader(environment.cgroups.layout)
    oom = OomKills(environment.paths, stats)
    filters = SeccompFilters(environment.runtime.root, kept=environment.is_crun)
    signals = OciSignals(environment, bundles)
    endings = Endings(oom, OomCauses(MemoryLimits(environment.cgroups.layout)))
    restores = Restores(environment, layers)
    making = ContainerBundles(environment, bundles, layers, oom, filters.ready)
    return HandlerParts(
        environment=environment,
        layers=layers,
        bundles=bundles,
        pods=Pods(environment, InfraContainers(environment, filters)),
        making=making,
        containers=Containers(environment, bundles, making, filters, restores),
        signals=signals,
        exits=Exits(environment, bundles, signals, endings),
        usage=UsageReader(environment.paths, stats),
        oom=oom,
        restores=restores,
    )
