"""Which of the configured CNI networks pods are attached to, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from crib.backends.network.cni.conf_dir import ConfDirectory, FoundNetwork, NoNetworkConf
from crib.backends.network.interfaces import POD_INTERFACE
from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.settings import NetworkSettings

LOOK_SECONDS = 2.0
"""For a look at configuration or plugins: a kubelet's Status call waits for it."""
_STEM = POD_INTERFACE.rstrip("0123456789")


def interface_names() -> Iterator[str]:
    """eth0, eth1, …: the interfaces of a pod's networks, in their order."""
    return (f"{_STEM}{number}" for number in count())


class NetworkChoice:
    """The networks of the node's directory and of the handlers', as their files are now."""

    def __init__(self, settings: NetworkSettings, of_handlers: Sequence[str] = ()) -> None:
        """`of_handlers`: their own directories, which are looked after before a pod names one."""
        self.settings = settings
        """Those that hold now."""
        self._conf_dirs = {path: ConfDirectory(path) for path in (settings.cni_conf_dir, *of_handlers)}

    @property
    def node_directory(self) -> str:
        return self.settings.cni_conf_dir

    @property
    def directories(self) -> Sequence[str]:
        """The node's first, then those of handlers."""
        return tuple(self._conf_dirs)

    async def configured(self, directory: str = "") -> tuple[FoundNetwork, ...]:
        """All networks of a directory (empty: the node's), the default first. Raises NoNetworkConf.

        A handler's directory need not have the default network; the node's must.
        """
        path = directory or self.node_directory
        conf_dir = self._conf_dirs.setdefault(path, ConfDirectory(path))
        try:
            found = await FOREIGN.run(
                Job(f"reading cni configuration in {path}", path, LOOK_SECONDS), conf_dir.networks
            )
        except Overdue as error:
            raise NoNetworkConf(str(error)) from error
        wanted = self.settings.cni_default_network
        first = tuple(network for network in found if network.conf.name == wanted)[:1]
        if wanted and not first and path == self.node_directory:
            names = ", ".join(f"{network.conf.name} ({network.path})" for network in found)
            raise NoNetworkConf(f"network {wanted} is not in {path}, which has {names}")
        return (*first, *(network for network in found if network not in first))

    async def chosen(self, directory: str = "") -> tuple[FoundNetwork, ...]:
        """Those that a pod is attached to, eth0's first. Raises NoNetworkConf."""
        found = await self.configured(directory)
        return found[: self.settings.cni_networks or len(found)]

    async def chosen_if_any(self, directory: str) -> tuple[FoundNetwork, ...]:
        """The same, none where there is none."""
        try:
            return await self.chosen(directory)
        except NoNetworkConf:
            return ()

    async def problems_of_handlers(self) -> Sequence[str]:
        """What is wrong with the handlers' directories."""
        problems: list[str] = []
        for directory in self.directories:
            if directory != self.node_directory:
                try:
                    await self.chosen(directory)
                except NoNetworkConf as error:
                    problems.append(str(error))
        return problems
