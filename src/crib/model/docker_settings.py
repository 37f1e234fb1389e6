"""What the administrator can set of a handler of the kind `docker`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from crib.model.keys import LIVE, AtLeast, Between, Path


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """Of kind `docker`: the Engine, and what it keeps for crib."""

    socket: Path = "/run/docker.sock"
    """The Engine's own socket."""
    timeout: Annotated[float, AtLeast(1), LIVE] = 30.0
    """Seconds that the Engine has to answer one call. Creates and starts have `verb_timeout`."""
    load_timeout: Annotated[float, AtLeast(1), LIVE] = 600.0
    """Seconds that it has to take the layers of one image."""
    image_time: Annotated[float, AtLeast(0), LIVE] = 3600.0
    """Seconds that layers stay in the Engine which no container uses; 0: they go with the last one."""
    log_size: Annotated[int, AtLeast(1 << 20)] = 64 << 20
    """Bytes of output that the Engine keeps of each container, until crib has copied it to the log."""
    log_files: Annotated[int, Between(1, 100)] = 2
    """Files of that size at most."""
