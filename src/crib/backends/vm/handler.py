"""The port `Handler` by machines: a shim's, and what a machine has beyond it."""

from __future__ import annotations

from crib.backends.environment import SharedLayers
from crib.backends.pods.pods import Pods
from crib.backends.shim.containers import ContainerMaking
from crib.backends.shim.handler import ShimHandler
from crib.backends.vm.containers import VmContainerMaking, VmContainers
from crib.backends.vm.dial import VmStreams
from crib.backends.vm.disks import VmDisks
from crib.backends.vm.environment import VmEnvironment, closed_environment, open_environment
from crib.backends.vm.pods import VmPods
from crib.backends.vm.statistics import VmStatistics


class VmHandler(ShimHandler):
    """See Handler."""

    _open_environment = staticmethod(open_environment)
    _closed_environment = staticmethod(closed_environment)

    def __init__(self, environment: VmEnvironment, layers: SharedLayers) -> None:
        self._machines = environment
        super().__init__(environment, layers)

    def _open_making(self) -> VmContainerMaking:
        return VmContainerMaking(self.tools, self._exits, VmDisks(self._machines, self.tools.layers))

    def _open_statistics(self, pods: Pods) -> VmStatistics:
        return VmStatistics(self.tools, pods)

    def _open_pods(self, pods: Pods) -> VmPods:
        return VmPods(self._machines, self.tools, pods, self._infra)

    def _open_containers(self, making: ContainerMaking) -> VmContainers:
        assert isinstance(making, VmContainerMaking)
        return VmContainers(self._machines, self.tools, self._exits, making)

    def _open_streams(self) -> VmStreams:
        return VmStreams(self.tools)
