"""Whether KVM works here. A /dev/kvm may be there and hang for ever: so a process of its own tries it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from crib.host.processes import run
from crib.host.threads import OURS

PROBE_TIME = 2.0
"""Seconds in which a VM of KVM must be made."""
DEVICE = "/dev/kvm"
_PROBE = """\
import fcntl, os, sys
kvm = os.open(sys.argv[1], os.O_RDONLY | os.O_CLOEXEC)
version = fcntl.ioctl(kvm, 0xAE00, 0)
os.close(fcntl.ioctl(kvm, 0xAE01, 0))
raise SystemExit(0 if version == 12 else f"its API has version {version}, not 12")
"""
"""KVM_GET_API_VERSION and KVM_CREATE_VM (kernel, virt/kvm/api), which ask for no right to write."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """`kvm` or `tcg` (emulation), and why not KVM where it was not forbidden."""

    name: str
    why: str = ""


async def find_acceleration(wanted: str, device: str = DEVICE) -> Acceleration:
    """For `auto`, `kvm` or `tcg`: with `tcg` the device is not touched, with `kvm` a failure is told by
    `why`.
    """
    if wanted == "tcg":
        return Acceleration("tcg")
    problem = await _problem(device)
    return Acceleration("kvm") if not problem else Acceleration("tcg", problem)


async def _problem(device: str) -> str:
    if not await OURS.run("looking for KVM", os.path.exists, device):
        return f"there is no {device}"
    try:
        said = await run((sys.executable, "-I", "-S", "-c", _PROBE, device), timeout=PROBE_TIME)
    except TimeoutError:  # it waits in the kernel, and is left there
        return f"{device} hangs, and whoever opens it cannot be ended"
    if said.timed_out:
        return f"{device} made no VM within {PROBE_TIME:.0f} s"
    if said.exit_code != 0:
        words = said.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"{device} cannot be used: {words}"
    return ""
