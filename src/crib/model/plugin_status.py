"""What is known of each node plugin (NRI), for people: its life, and what it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from crib.model.tallies import Operations, Tally

MOST_SERIES = 512
"""Plugins times calls that are counted each for itself."""


class PluginState(StrEnum):
    """Of one plugin. `crib.backends.nri.lives` says what follows what."""

    WAITING = "waiting"
    """Installed, and not running: it is started later."""
    ENDED = "ended"
    """Installed, and not started any more: it ended with exit code 0."""
    CONNECTED = "connected"
    REGISTERED = "registered"
    CONFIGURED = "configured"
    SYNCHRONIZING = "synchronizing"
    READY = "ready"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """One plugin now."""

    name: str
    """`10-name`; empty until it is registered."""
    state: PluginState
    since: int
    """When it came to this state, in nanoseconds since the epoch."""
    pid: int
    """0 where our pid namespace does not have it, or where it does not run."""
    installed: bool
    """Started by the daemon, from `plugin_dir`; otherwise it has connected to the socket."""
    version: str = ""
    """Of NRI, as the plugin says."""
    events: tuple[str, ...] = ()
    """That it subscribes to, by the names of the calls."""
    calls: int = 0
    failures: int = 0
    """Calls that it answered with an error, or did not answer."""
    seconds: float = 0.0
    """That all calls took together."""
    starts: int = 0
    """How often the daemon has started it."""
    problem: str = ""
    """Why it is not ready, where that is known."""


class PluginFigures:
    """Counted since the daemon began, by plugin (`10-name`)."""

    __slots__ = ("calls", "dropped", "evictions", "timeouts", "updates")

    def __init__(self) -> None:
        self.calls = Operations(MOST_SERIES)
        """By plugin and call."""
        self.timeouts = Tally()
        """Calls that it did not answer in time; each of them dropped it."""
        self.dropped = Tally()
        """How often it was sent away: for a time-out, or for what the protocol does not allow."""
        self.updates = Tally()
        """Containers that it wanted other limits for, asked or unasked."""
        self.evictions = Tally()
