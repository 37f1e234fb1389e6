"""What a container would be, before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crib.model.container import ContainerConfig
from crib.model.ids import ContainerId, HandlerName, SandboxId
from crib.model.sandbox import SandboxConfig

NO_SANDBOX = SandboxId("0" * 64)
NO_CONTAINER = ContainerId("0" * 64)
"""Stand for ids that are drawn when something is made."""


@dataclass(frozen=True, slots=True)
class PlannedContainer:
    """A request for a container of a pod that there is not (yet)."""

    sandbox: SandboxConfig
    handler: HandlerName
    """Empty for the default one."""
    config: ContainerConfig


@dataclass(frozen=True, slots=True)
class ExplainedSpec:
    """An OCI spec and where its fields are from."""

    spec: bytes
    """The JSON of config.json (OCI runtime specification, config.md)."""
    origins: Mapping[str, str]
    """JSON pointers (RFC 6901) to origins; of those that lead to a field the longest counts."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is said of a container, or of a plan for one."""

    container: ContainerId
    sandbox: SandboxId
    handler: HandlerName
    explained: ExplainedSpec
