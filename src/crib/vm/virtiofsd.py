"""The two programs called virtiofsd, and their command lines. Pure but for the search.

qemu's own, in C, is in Debian 12's qemu-system-common; the one in Rust that took its place is a package of
its own since. Both change into namespaces in which there is nothing but the shared directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

PLACES = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
)
"""Where distributions have it, the newer one first; it is on no PATH."""


def find_virtiofsd(exists: Callable[[str], bool] = os.path.exists) -> str:
    """Its path; empty if there is none."""
    return next((path for path in PLACES if exists(path)), "")


def is_qemus_own(program: bytes) -> bool:
    """Whether a file's bytes are the program in C: by words of its help, so that it need not run."""
    return b"using FUSE kernel interface" in program


def virtiofsd_command(program: str, directory: str, listening: int, *, in_c: bool) -> tuple[str, ...]:
    """Share a directory with whoever connects to a listening socket. It ends with that connection.

    Data and names are cached in the guest for a second, so that changes of the host are seen. Mounts below
    the directory have device numbers of their own in the guest.
    """
    if in_c:
        options = f"source={directory},sandbox=namespace,cache=auto,xattr,announce_submounts,log_level=warn"
        return program, "-f", f"--fd={listening}", "-o", options
    return (
        *(program, f"--fd={listening}", f"--shared-dir={directory}", "--sandbox=namespace"),
        *(
            "--cache=auto",
            "--xattr",
            "--announce-submounts",
            "--inode-file-handles=never",
            "--log-level=warn",
        ),
    )
