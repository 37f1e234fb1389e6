"""What the shim is told: its handler's options, and what the bundle says of the pod.

Options come as a shim's do (runtimeoptions.v1.Options): TOML in `config_body`, or a file at `config_path`.
What concerns one pod is in the config.json of its bundle, which only whoever runs the shim writes.
Annotations of the pod itself, which its author chooses, are never read: they would choose programs and
arguments of the host.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from crib.vm.qemu import ACCELERATIONS, MACHINES, MIB, Image
from crib.vm.virtiofsd import find_virtiofsd

MOST_CPUS = 240
LEAST_MEMORY = 96
"""MiB with which the guest's kernel and agent come up, and little else."""
MOST_MEMORY = 1 << 20
MOST_BYTES = 1 << 20
"""Of a document of options, or a config.json of a pod."""
SHARED_PID = "crib.vm/shared-pid"
"""Annotation of the bundle: `true` where the pod's containers share their pids."""
SHM = "crib.vm/shm"
"""Annotation of the bundle: the host's path of what its containers have at /dev/shm, which the guest makes
itself."""
MEMORY = "crib.vm/memory"
"""Annotation of the bundle: memory of the VM in bytes, instead of the option."""
CPUS = "crib.vm/cpus"
"""Annotation of the bundle: number of CPUs, instead of the option."""


class OptionProblem(ValueError):
    """An option is not understood; the message names it."""


@dataclass(frozen=True, slots=True)
class VmOptions:
    """Keys of the TOML document."""

    image: str = ""
    """Directory with `kernel`, `initrd` and `guest.erofs`. The one key that must be there."""
    qemu: str = "qemu-system-x86_64"
    """Program, or its path."""
    virtiofsd: str = ""
    """Path of the program; empty: where distributions have it."""
    machine: str = "microvm"
    """microvm or q35."""
    acceleration: str = "tcg"
    """kvm or tcg. Whether kvm works is for the caller to find out: it may hang."""
    memory: int = 256
    """MiB."""
    cpus: int = 1
    kernel_arguments: str = ""
    """More arguments for the guest's kernel, between spaces."""
    boot_time: float = 60.0
    """Seconds from the start of qemu until the agent must have answered."""
    user: int = 65534
    """Uid and gid that qemu runs as. 0: root."""

    @property
    def files(self) -> Image:
        return Image(f"{self.image}/kernel", f"{self.image}/initrd", f"{self.image}/guest.erofs")


_CHOICES = {"machine": MACHINES, "acceleration": ACCELERATIONS}
_RANGES: Mapping[str, tuple[float, float]] = {
    "memory": (LEAST_MEMORY, MOST_MEMORY),
    "cpus": (1, MOST_CPUS),
    "boot_time": (1, 3600),
    "user": (0, (1 << 32) - 2),
}


def read_options(document: bytes) -> VmOptions:
    """OptionProblem for what is no TOML, no known key, or no good value."""
    if len(document) > MOST_BYTES:
        raise OptionProblem(f"options of {len(document)} bytes, at most {MOST_BYTES}")
    try:
        found = tomllib.loads(document.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionProblem(f"the options are no TOML: {error}") from error
    known = {one.name: type(getattr(VmOptions(), one.name)) for one in fields(VmOptions)}
    for name, value in found.items():
        if name not in known:
            raise OptionProblem(f"{name} is not known: there are {', '.join(known)}")
        _check(name, value, known[name])
    if not found.get("image"):
        raise OptionProblem("image must be the directory of the guest's kernel, initrd and root")
    return VmOptions(**found)


def _check(name: str, value: Any, kind: type) -> None:
    good = type(value) in (int, float) if kind is float else type(value) is kind
    if not good:
        words = {str: "a string", int: "a whole number", float: "a number"}
        raise OptionProblem(f"{name} must be {words[kind]}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise OptionProblem(f"{name} must be {' or '.join(_CHOICES[name])}, not {value!r}")
    if name in _RANGES and not _RANGES[name][0] <= value <= _RANGES[name][1]:
        raise OptionProblem(f"{name} must be {_RANGES[name][0]} to {_RANGES[name][1]}, not {value}")


def with_virtiofsd(options: VmOptions) -> VmOptions:
    """The same with virtiofsd's path. OptionProblem if there is none."""
    found = options.virtiofsd or find_virtiofsd()
    if not found or not os.path.exists(found):
        raise OptionProblem("virtiofsd is not found: install virtiofsd (Debian 12: qemu-system-common)")
    return replace(options, virtiofsd=found)


@dataclass(frozen=True, slots=True)
class VmPlan:
    """What one pod's bundle asks for; 0 and empty: the options hold, or nothing is."""

    network: str = ""
    """Path of its network namespace."""
    cgroup: str = ""
    """The OCI's cgroupsPath."""
    hostname: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    shared_pid: bool = False
    shm: str = ""
    memory: int = 0
    cpus: int = 0


def read_pod(document: bytes) -> VmPlan:
    """Of a bundle's config.json. OptionProblem if it is not understood."""
    try:
        spec = json.loads(document)
        linux, notes = spec.get("linux") or {}, spec.get("annotations") or {}
        paths = {one["type"]: one.get("path", "") for one in linux.get("namespaces") or ()}
        memory, cpus = int(notes.get(MEMORY, 0)), int(notes.get(CPUS, 0))
        plan = VmPlan(
            network=paths.get("network", ""),
            cgroup=linux.get("cgroupsPath", ""),
            hostname=spec.get("hostname", ""),
            sysctls=dict(linux.get("sysctl") or {}),
            shared_pid=notes.get(SHARED_PID) == "true",
            shm=notes.get(SHM, ""),
            memory=memory,
            cpus=cpus,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionProblem(f"the pod's config.json is not understood: {error}") from error
    if memory and not LEAST_MEMORY <= memory // MIB <= MOST_MEMORY:
        raise OptionProblem(f"{MEMORY} must be {LEAST_MEMORY} MiB to {MOST_MEMORY} MiB, not {memory} bytes")
    if not 0 <= cpus <= MOST_CPUS:
        raise OptionProblem(f"{CPUS} must be 1 to {MOST_CPUS}, not {cpus}")
    return plan
