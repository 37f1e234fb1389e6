"""The name server of the built-in bridge: pods' names, answered on the bridge's own addresses."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from crib.backends.failures import why
from crib.backends.network.bridge.addresses import Address, AddressBook
from crib.backends.network.bridge.names import NameServer
from crib.model.sandbox import DnsConfig

_log = logging.getLogger(__name__)


class BridgeNames:
    """Listens where the bridge's gateways are; does nothing where `domain` is empty."""

    def __init__(self, domain: str, addresses: AddressBook) -> None:
        self._domain = domain
        self._addresses = addresses
        self._server: NameServer | None = None
        self.problem = ""
        """Why names are not answered; empty when they are, or when nobody asked for it."""

    async def serve(self) -> None:
        """Listen on the gateways of now. A failure is logged and kept in `problem`: pods do without."""
        if not self._domain:
            return
        if self._server is None:
            self._server = NameServer(self._domain, self._lookup, self._reverse)
        problem = ""
        try:
            await self._server.listen(tuple(map(str, self._addresses.gateways)))
        except OSError as error:
            problem = f"names of pods are not answered: {why(error)}"
        if problem and problem != self.problem:
            _log.warning("%s", problem)
        self.problem = problem

    def resolver(self, namespace: str) -> DnsConfig | None:
        """What pods of a namespace ask first; None where there is no domain."""
        if not self._domain:
            return None
        servers = tuple(map(str, self._addresses.gateways))
        return DnsConfig(servers, (f"{namespace}.{self._domain}", self._domain))

    async def close(self) -> None:
        """Answer no more; closing twice is safe."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def _lookup(self, name: str, namespace: str) -> Sequence[Address]:
        return self._addresses.named(f"{namespace}/{name}")

    def _reverse(self, address: Address) -> tuple[str, str] | None:
        namespace, _, name = self._addresses.owner(address).partition("/")
        return (name, namespace) if name else None
