"""AppArmor: which profiles the kernel has, and giving it one (apparmor.d(5), apparmor_parser(8))."""

from __future__ import annotations

import os

from crib.host.processes import run

PROFILES = "/sys/kernel/security/apparmor/profiles"
REVISION = "/sys/kernel/security/apparmor/revision"
"""A number that goes up with each profile that is loaded, replaced or removed."""
ENABLED = "/sys/module/apparmor/parameters/enabled"
MACROS = "/etc/apparmor.d"
_PROFILES_LIMIT = 16 << 20
_PARSER_TIME = 30.0
_RUNTIMES = ("crun", "runc", "youki", "conmon")

_PROFILE = """\
profile {name} flags=(attach_disconnected,mediate_deleted) {{
{inside}
  network,
  # The kernel's ciphers. A seccomp filter cannot see what a 32-bit program asks of socketcall(2).
  deny network alg,
  capability,
  file,
  umount,

  # Signals come from the node, from the programs that keep the container, and from itself.
  signal (receive) peer=unconfined,
{keepers}
  signal (send,receive) peer={name},
  ptrace (trace,read,tracedby,readby) peer={name},

  deny mount,

  # /proc: a process's own directories may be written, and shm limits, which belong to the ipc namespace.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/[^0-9s]*/** w,
  deny @{{PROC}}/scsi/** w,
  deny @{{PROC}}/sys/[^k]*/** w,
  deny @{{PROC}}/sys/kernel/[^s]** w,
  deny @{{PROC}}/sys/kernel/s[^h]** w,
  deny @{{PROC}}/sys/kernel/sh[^m]** w,
  deny @{{PROC}}/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # /sys: nothing but cgroups may be written, and three places not even be read.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def is_enabled(path: str = ENABLED) -> bool:
    """Whether the kernel has AppArmor and it is on."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(8).startswith("Y")
    except OSError:
        return False


_known: dict[str, tuple[bytes, frozenset[str]]] = {}
"""What `loaded_profiles` last read of a path, and the revision before that."""


def loaded_profiles(path: str = PROFILES, revision: str = REVISION) -> frozenset[str]:
    """Names of the profiles that the kernel has now. OSError when securityfs cannot be read.

    The list, which has a thousand lines on some nodes, is read anew when its revision is another one.
    """
    now = _revision(revision)
    before, names = _known.get(path, (b"", frozenset()))
    if now and now == before:
        return names
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read(_PROFILES_LIMIT)
    # `NAME (enforce)`, where the name may have spaces and brackets in it.
    names = frozenset(line.rpartition(" (")[0] for line in text.splitlines() if line.endswith(")"))
    _known[path] = now, names
    return names


def _revision(path: str) -> bytes:
    """Empty if the kernel does not say."""
    try:
        # a second read of one descriptor would wait for the next change
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, 64)
    except OSError:
        return b""
    finally:
        os.close(fd)


def own_profile(path: str = "/proc/self/attr/current") -> str:
    """The profile that this process runs under; `unconfined` if there is none, or it cannot be found out."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(4096)
    except OSError:
        return "unconfined"
    return text.strip("\0\n ").rpartition(" (")[0] or "unconfined"


def default_profile(name: str, *, keeper: str = "unconfined", macros: str = MACROS) -> str:
    """The text of a profile for containers.

    `keeper` is the profile of the daemon that sends them signals. `macros` is the directory of the
    distribution's includes; those that exist are used.
    """
    head = []
    if os.path.exists(f"{macros}/abi/3.0"):
        head.append("abi <abi/3.0>,")
    tunables = os.path.exists(f"{macros}/tunables/global")
    head.append("#include <tunables/global>" if tunables else "@{PROC}=/proc/")
    base = os.path.exists(f"{macros}/abstractions/base")
    peers = dict.fromkeys([*_RUNTIMES, keeper])
    peers.pop("unconfined", None)
    body = _PROFILE.format(
        name=name,
        inside="  #include <abstractions/base>\n" if base else "",
        keepers="\n".join(f'  signal (receive) peer="{peer}",' for peer in peers),
    )
    return "\n".join([*head, "", body])


async def load_profile(text: str, parser: str = "apparmor_parser") -> None:
    """Give the kernel a profile, or a newer text of one that it has.

    ToolMissing without the parser, ProgramFailed with its words when it or the kernel refuses.
    """
    completed = await run((parser, "-Kr"), stdin=text.encode(), timeout=_PARSER_TIME)
    completed.check()
