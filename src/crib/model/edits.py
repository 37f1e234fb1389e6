"""Changes of a container in addition to what its request, its image and the settings say.

CDI devices and hook files change containers (Container Device Interface, SPEC.md, "CDI edits"; oci-hooks(5)),
and so do NRI plugins (ContainerAdjustment). Here is what they have in common, each with its origin. A kind of
change gets a field once something can ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AddedDevice:
    """A device node of the host; `kind` is `c` or `b`."""

    path: str
    """Where it shall be in the container."""
    kind: str
    major: int
    minor: int
    permissions: str = "rwm"
    mode: int | None = None
    uid: int | None = None
    """None: the container's user, as CDI has it; so with `gid`."""
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class AddedMount:
    """A mount as the OCI runtime specification has it (config.md, Mounts)."""

    destination: str
    source: str
    type: str = "bind"
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddedHook:
    """A program that the runtime starts at some moment (config.md, POSIX-platform Hooks)."""

    stage: str
    """As the specification calls it: `prestart`, `createRuntime`, …"""
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None
    """Seconds."""


@dataclass(frozen=True, slots=True)
class ContainerEdits:
    """All that one of them changes in one container."""

    origin: str
    """Who it is from, in words for people: `CDI vendor.com/gpu=0`."""
    env: tuple[tuple[str, str], ...] = ()
    devices: tuple[AddedDevice, ...] = ()
    mounts: tuple[AddedMount, ...] = ()
    hooks: tuple[AddedHook, ...] = ()
    groups: tuple[int, ...] = ()
    """Supplementary groups of the first process."""
