"""Slices and scopes of systemd, through busctl: no library, as few calls are needed.

Scopes are made by the OCI runtime. A slice comes by itself with the first scope in it, and without limits
nobody needs it before. Written from org.freedesktop.systemd1(5); a transient unit leaves no file behind when
it is stopped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from crib.backends.failures import checked
from crib.host.processes import Completed, run
from crib.model.errors import Broken
from crib.ocispec.unit_properties import Property

Properties = Sequence[Property]

_MANAGER = (
    *("busctl", "--system", "--timeout=20", "call"),
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_RUNNING = "/run/systemd/system"
"""sd_booted(3): there where systemd is the init system."""
_TIMEOUT = 30.0
_VERSION = re.compile(r"systemd ([0-9]{1,6})")


def check_systemd(directory: str = _RUNNING) -> None:
    """Broken where there is no systemd to drive."""
    if not os.path.isdir(directory):
        raise Broken("cgroup_driver is systemd, but systemd does not run on this host (sd_booted(3))")


async def systemd_version() -> int:
    """The number in `systemctl --version`; Broken where there is no systemd to drive."""
    check_systemd()
    said = (await run(("systemctl", "--version"), timeout=_TIMEOUT)).stdout.decode("utf-8", "replace")
    match = _VERSION.match(said)
    if match is None:
        raise Broken(f"systemctl --version says {said[:80]!r}, which has no version in it")
    return int(match[1])


def start_argv(name: str) -> tuple[str, ...]:
    """StartTransientUnit(name, mode, properties, aux)."""
    return (*_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", "0", "0")


def change_argv(name: str, properties: Properties) -> tuple[str, ...]:
    """SetUnitProperties(name, runtime, properties)."""
    words = (word for entry in properties for word in entry)
    return (*_MANAGER, "SetUnitProperties", "sba(sv)", name, "true", str(len(properties)), *words)


def stop_argv(name: str) -> tuple[str, ...]:
    """StopUnit(name, mode)."""
    return (*_MANAGER, "StopUnit", "ss", name, "replace")


async def start_slice(name: str, *, transient: bool = False) -> None:
    """Make a slice without limits, and wait until it is there. Broken where there is no systemd.

    What `change_unit` says of a `transient` one goes with it; of others it stays in /run.
    """
    check_systemd()
    if transient:  # refused for one that is there: from a scope, or an earlier call
        await _call(start_argv(name))
    checked(f"start of {name}", await run(("systemctl", "start", name), timeout=_TIMEOUT))


async def change_unit(name: str, properties: Properties) -> None:
    """Give a slice or scope that is there these properties, all or none: systemd looks at every one before it
    takes the first. Broken when it refuses, or there is no such unit.
    """
    if properties:
        checked(f"limits of {name}", await _call(change_argv(name, properties)))


async def stop_slice(name: str) -> None:
    """End the slice and everything in it. One that systemd does not know is fine."""
    await _call(stop_argv(name))


async def _call(argv: tuple[str, ...]) -> Completed:
    return await run(argv, timeout=_TIMEOUT)
