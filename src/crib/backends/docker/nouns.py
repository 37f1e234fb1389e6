"""What the Engine says, in our words, and what we call things there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crib.model.errors import Broken
from crib.wire.crilog import parse_time

LABEL_OWNER = "io.crib.owner"
"""Of containers: whose they are. Only those of the same state directory and handler are ever touched."""
LABEL_CONTAINER = "io.crib.container"
"""The container's id here."""
LABEL_SANDBOX = "io.crib.sandbox"
"""The id of the pod whose own container it is."""
LABEL_LAYERS = "io.crib.layers"
"""Of images: what they are made of. Nothing else is known of them, so they are made again at any time."""
_PREFIX = "crib-"
_NEVER = "0001-01-01T00:00:00Z"


def engine_name(name: str) -> str:
    """What a container or a pod's own container is called in the Engine, by its id here."""
    return f"{_PREFIX}{name}"


@dataclass(frozen=True, slots=True)
class EngineContainer:
    """What the Engine says of one container."""

    id: str
    """The Engine's."""
    status: str
    """created, running, paused, restarting, removing, exited or dead."""
    pid: int
    """Of the first process, on this host; 0 where there is none."""
    code: int
    finished_at: int
    """ns since the epoch; 0 where it has not ended."""
    oom_killed: bool
    owner: str
    image: str
    """The Engine's id of its image."""
    upper: str
    """The directory of what it has written; empty where the Engine's driver has none."""

    @property
    def has_ended(self) -> bool:
        return self.status in ("exited", "dead") or (self.status == "removing" and self.pid == 0)

    @property
    def runs(self) -> bool:
        return self.status in ("running", "paused", "restarting")


def read_container(document: Any) -> EngineContainer:
    """Of ContainerInspect. Broken where that is something else."""
    try:
        state = document["State"]
        finished = str(state.get("FinishedAt") or _NEVER)
        driver = document.get("GraphDriver") or {}
        return EngineContainer(
            id=str(document["Id"]),
            status=str(state["Status"]),
            pid=int(state.get("Pid") or 0),
            code=int(state.get("ExitCode") or 0),
            finished_at=0 if finished == _NEVER else parse_time(finished.encode()),
            oom_killed=bool(state.get("OOMKilled")),
            owner=labels_of(document.get("Config") or {}).get(LABEL_OWNER, ""),
            image=str(document.get("Image") or ""),
            upper=str((driver.get("Data") or {}).get("UpperDir") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Broken(f"the Engine says something of a container that is not understood: {error!r}") from error


def labels_of(document: Mapping[str, Any]) -> Mapping[str, str]:
    """`Labels`, which may be null."""
    return document.get("Labels") or {}


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """What the Engine says of a command in a container."""

    running: bool
    pid: int
    code: int | None
    """None until it has ended."""

    @property
    def has_begun(self) -> bool:
        return self.pid > 0

    @property
    def has_failed(self) -> bool:
        """It was never there: what was to be run cannot be."""
        return self.code is not None and self.pid == 0 and not self.running


def read_command(document: Any) -> EngineCommand:
    """Of ExecInspect. Broken where that is something else."""
    try:
        code = document.get("ExitCode")
        return EngineCommand(
            bool(document["Running"]), int(document.get("Pid") or 0), None if code is None else int(code)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Broken(f"the Engine says something of a command that is not understood: {error!r}") from error
