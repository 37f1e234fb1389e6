"""Pods that somebody wants to be kept up without a kubelet. Times are nanoseconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeepOrder:
    """A pod to be kept up from now on. `manifest` comes to this pod, `pods_dir` has its files; both are for
    whoever keeps it up."""

    namespace: str
    name: str
    uid: str
    pods_dir: str
    manifest: str


@dataclass(frozen=True, slots=True)
class WantOrder:
    """A kept pod shall run (anew), or stop. `grace`: seconds for a stop; -1: the pod's own."""

    namespace: str
    name: str
    run: bool
    grace: int = -1


@dataclass(frozen=True, slots=True)
class KeptContainer:
    """A container as its keeper last saw it."""

    name: str
    id: str
    state: str
    """A word for people: Running, Starting, Waiting, CrashLoopBackOff, Exited (CODE)."""
    message: str
    ready: bool
    restarts: int
    exit_code: int
    until: int
    """When its pause is over; 0: it has none."""


@dataclass(frozen=True, slots=True)
class KeptPod:
    """A pod that is kept up, and how it is."""

    order: KeepOrder
    wanted: bool
    """Whether it shall run."""
    since: int
    phase: str
    """Starting, Running, Stopping, Stopped, Succeeded, Failed; empty: nobody has looked at it yet."""
    message: str
    sandbox: str
    until: int
    containers: tuple[KeptContainer, ...]
