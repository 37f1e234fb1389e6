"""What all parts of a handler are given, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from crib.host.cgroups import Cgroups
from crib.model.errors import Broken
from crib.model.facts import HandlerFacts, HostFacts
from crib.model.ids import Digest, HandlerName
from crib.model.paths import Paths
from crib.model.sandbox import Resources
from crib.model.settings import HandlerSettings, Settings

POD_MEMORY = 4 << 20
"""Bytes that the kernel and an infra process take in a pod's cgroup; measured: 12 KiB to 2.3 MiB."""


class SharedLayers(Protocol):
    """Where image layers are mounted, each once and shared."""

    async def acquire(self, layers: Sequence[Digest]) -> Sequence[str]:
        """Directories of the mounted layers, lowest first."""
        ...


@dataclass(frozen=True, slots=True)
class HandlerOpening:
    """What a handler is opened with."""

    name: HandlerName
    settings: Settings
    paths: Paths
    host: HostFacts
    layers: SharedLayers
    others: frozenset[str] | None = None
    """Given to the default handler: those that look after their own pods. It looks after all others'."""
    retired: bool = False
    """It was taken out of the configuration, and only looks after what it has made."""

    @property
    def options(self) -> HandlerSettings:
        """The administrator's settings for this handler."""
        return _options(self.settings, self.name)


@dataclass(slots=True, kw_only=True)
class HandlerEnvironment:
    """Found and checked once, when the daemon starts; only a reload brings other settings.

    Kinds of handler add what they alone need.
    """

    facts: HandlerFacts
    settings: Settings
    """Those that hold now: to be asked each time."""
    paths: Paths
    host: HostFacts
    cgroups: Cgroups
    base_spec: Mapping[str, Any] = field(default_factory=dict)
    """The usable part of the file that `options.base_spec` names."""
    default_seccomp: bytes | None = None
    """Content of `options.containers.seccomp_profile`, which is sound."""

    others: frozenset[str] | None = None
    """Of the default handler: those that look after themselves. It looks after what all others have made."""

    @property
    def inner_host(self) -> HostFacts:
        """What containers run on: this host, where they have no kernel of their own that is known."""
        return self.host

    @property
    def own_overhead(self) -> Resources | None:
        """What a pod takes beside its containers, if its client has not said; None: nobody knows.

        Without it, the limit of a pod (the sum of its containers') would be reached before theirs.
        """
        return Resources(memory_limit_in_bytes=POD_MEMORY)

    def adapt(self, settings: Settings) -> None:
        """Go by these from now on. Handlers that are new look after themselves."""
        self.settings = settings
        if self.others is not None:
            self.others |= settings.handlers.keys() - {self.facts.name}

    def owns(self, handler: str) -> bool:
        """Whether what that handler made is this one's to look after."""
        return handler == self.facts.name or (self.others is not None and handler not in self.others)

    @property
    def options(self) -> HandlerSettings:
        """The administrator's settings for this handler."""
        return _options(self.settings, self.facts.name)

    def require_usable(self) -> None:
        """Broken, with the reason, where the handler could not be opened."""
        if not self.facts.version:
            raise Broken(f"handler {self.facts.name} cannot be used: {self.facts.problem}")


def _options(settings: Settings, handler: str) -> HandlerSettings:
    return settings.handlers.get(handler, HandlerSettings(containers=settings.containers))
