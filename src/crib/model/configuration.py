"""The daemon's configuration as it is told: its keys, and what a reload made of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShownKey:
    """One key; values are JSON."""

    key: str
    """Dotted, as `network.mtu`."""
    value: str
    default: str
    origin: str
    """FILE:LINE:COLUMN or the name of an environment variable; empty: the default."""
    is_live: bool
    """A reload changes it while the daemon runs; otherwise it takes a restart."""


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key that has another value now. Values are JSON; empty: there is no such key on that side."""

    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ShownConfiguration:
    """The settings that hold."""

    keys: tuple[ShownKey, ...]
    files: tuple[str, ...]
    waiting: tuple[ChangedKey, ...]
    """What files say by now, and only a restart applies."""
    deprecated: tuple[str, ...]
    """Keys that are called by an old name, each with its place."""
    faults: tuple[str, ...]
    """Why the last reload was refused; none when it was not."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did: all of it, or with `faults` nothing."""

    changed: tuple[ChangedKey, ...] = ()
    waiting: tuple[ChangedKey, ...] = ()
    """What takes a restart."""
    faults: tuple[str, ...] = ()
    """Why the old settings stay."""
