"""What is found out of the host once, when the daemon starts."""

from __future__ import annotations

import os
import platform
import resource

from crib.host.capabilities import bounding_set
from crib.host.cgroups import CgroupLayout
from crib.model.facts import HostFacts

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def read_host_facts(cgroups: CgroupLayout) -> HostFacts:
    """Probe the host; what a file does not tell counts as not there."""
    capabilities = bounding_set()
    machine = platform.machine()
    controllers = cgroups.unified_controllers if cgroups.mode == "v2" else set(cgroups.controllers)
    return HostFacts(
        kernel=platform.release(),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        architecture=_ARCHITECTURES.get(machine, machine),
        cgroup_layout=cgroups.mode,
        cgroup_controllers=tuple(sorted(controllers)),
        capabilities=capabilities,
        oom_score_adj=int(_read("/proc/self/oom_score_adj") or 0),
        may_lower_oom="CAP_SYS_RESOURCE" in capabilities,
        apparmor=_read("/sys/module/apparmor/parameters/enabled").startswith("Y"),
        selinux=os.path.exists("/sys/fs/selinux/enforce"),
        seccomp=os.path.exists("/proc/sys/kernel/seccomp"),
        idmapped_mounts=False,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        swap_accounting=_swap_accounting(cgroups),
    )


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
