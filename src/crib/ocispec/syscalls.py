"""The system calls of the default seccomp profile (syscalls(2)): those of moby's, commit 3c28324 of May 2026.

Names that an architecture lacks are skipped by the runtime.
"""

from __future__ import annotations

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch
inotify_init inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
newfstatat name_to_handle_at open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile
sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync
sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
vmsplice write writev fanotify_mark memfd_create cachestat listmount statmount
"""

_MEMORY = """
brk madvise membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock
munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages memfd_secret
map_shadow_stack
"""

_PROCESSES = """
alarm capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid
getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self nanosleep pause pidfd_open
pidfd_send_signal prctl prlimit64 restart_syscall rseq sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
seccomp set_robust_list set_thread_area set_tid_address
setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32
sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid waitpid ptrace rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn process_vm_readv
process_vm_writev uretprobe riscv_hwprobe
"""

_WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
_newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select
"""

_TIME = """
adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday setitimer time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64
"""

_SOCKETS_AND_IPC = """
accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv
msgsnd recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send
sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair
"""

ALLOWED = frozenset(
    name
    for group in (_FILES, _MEMORY, _PROCESSES, _WAITING, _TIME, _SOCKETS_AND_IPC)
    for name in group.split()
)
"""For every container."""

BY_ARCHITECTURE: dict[str, frozenset[str]] = {
    name: frozenset(calls.split())
    for name, calls in {
        "386": "modify_ldt",
        "amd64": "arch_prctl modify_ldt",
        "arm": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
        "arm64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
        "ppc64le": "swapcontext sync_file_range2",
        "riscv64": "riscv_flush_icache",
        "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    }.items()
}
"""For every container on an architecture (its OCI name); those of its 32-bit kin are among them."""

BY_CAPABILITY: dict[str, frozenset[str]] = {
    f"CAP_{name}": frozenset(calls.split())
    for name, calls in {
        "BPF": "bpf",
        "DAC_READ_SEARCH": "open_by_handle_at",
        "PERFMON": "perf_event_open",
        "SYS_ADMIN": """
            bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
            lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open
            quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
        """,
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
    }.items()
}
"""What a capability is for."""
