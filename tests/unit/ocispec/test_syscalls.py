"""The default list of system calls is moby's, name by name.

Taken from seccomp/default.json of github.com/moby/profiles, commit 3c28324314729dbade8287e868eef6338c42807a
(2026-05-06). A newer list is taken over by making these figures from it, and then the list equal.
"""

from __future__ import annotations

import hashlib

from crib.ocispec.syscalls import ALLOWED, BY_ARCHITECTURE, BY_CAPABILITY

PLAIN = (364, "d5f4bc7e088cfb0239bbb1177df74c7154c85239e27d28dfb9d74c62e8f457c0")
"""How many names are allowed to all without a condition (or for one that kernel 4.8 meets), and the SHA-256
of them in order, a line break between two."""
CAPABILITIES = {
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie"
    " lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree"
    " perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "SYS_TTY_CONFIG": "vhangup",
    "SYSLOG": "syslog",
}
ARCHITECTURES = {
    "386": "modify_ldt",
    "amd64": "arch_prctl modify_ldt",
    "arm": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "arm64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "ppc64le": "swapcontext sync_file_range2",
    "riscv64": "riscv_flush_icache",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
}


def test_what_is_allowed_to_all_is_mobys_list() -> None:
    digest = hashlib.sha256("\n".join(sorted(ALLOWED)).encode()).hexdigest()
    assert (len(ALLOWED), digest) == PLAIN


def test_what_a_capability_or_an_architecture_brings_is_mobys_list() -> None:
    assert {f"CAP_{name}": frozenset(calls.split()) for name, calls in CAPABILITIES.items()} == BY_CAPABILITY
    assert {name: frozenset(calls.split()) for name, calls in ARCHITECTURES.items()} == BY_ARCHITECTURE
