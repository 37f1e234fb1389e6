"""What is found out of the host once, when the daemon starts."""

from __future__ import annotations

import os
import platform
import resource

from crib.host import apparmor, selinux
from crib.host.cgroups import CgroupLayout
from crib.host.privileges import bounding_set
from crib.model.facts import HostFacts

_ARCHITECTURES = {
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "loongarch64": "loong64",
    "mips64": "mips64",
    "x86_64": "amd64",
}
"""What uname says, in the OCI's words, where these differ."""


def read_host_facts(cgroups: CgroupLayout) -> HostFacts:
    """Probe the host; what a file does not say counts as missing."""
    capabilities = bounding_set()
    machine = platform.machine()
    controllers = cgroups.unified_controllers if cgroups.mode == "v2" else set(cgroups.controllers)
    return HostFacts(
        kernel=platform.release(),
        boot_id=read_boot_id(),
        architecture=_ARCHITECTURES.get(machine, machine),
        cgroup_layout=cgroups.mode,
        cgroup_controllers=tuple(sorted(controllers)),
        capabilities=capabilities,
        oom_score_adj=int(_read("/proc/self/oom_score_adj") or 0),
        may_lower_oom="CAP_SYS_RESOURCE" in capabilities,
        apparmor=apparmor.is_enabled(),
        selinux=selinux.is_enabled(),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp"),
        idmapped_mounts=False,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        swap_accounting=_swap_accounting(cgroups),
        cgroup_delegation=cgroups.mode == "v2" and cgroups.delegates,
        cgroup_favordynmods=cgroups.mode == "v2" and cgroups.favours_changes,
        **_contexts(),
    )


def read_boot_id() -> str:
    """A new one with each boot (random(4))."""
    return _read("/proc/sys/kernel/random/boot_id")


def _contexts() -> dict[str, str]:
    """The policy's contexts of containers; what it does not name keeps its usual value."""
    said = selinux.container_contexts() if selinux.is_enabled() else {}
    keys = {"selinux_process": "process", "selinux_init": "init_process", "selinux_file": "file"}
    named = {name: said.get(key, "") for name, key in keys.items()}
    return {name: context for name, context in named.items() if context.count(":") >= 2}


def _swap_accounting(cgroups: CgroupLayout) -> bool:
    """Whether memory and swap can be limited together (kernel, cgroup-v1/memory, section 8)."""
    if cgroups.mode == "v2":
        return bool(_read("/proc/swaps")) and "memory" in cgroups.unified_controllers
    memory = cgroups.controllers.get("memory", "")
    return os.path.exists(f"{memory}/memory.memsw.limit_in_bytes")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""
