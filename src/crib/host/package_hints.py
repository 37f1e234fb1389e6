"""What to install for a program that is not there."""

PACKAGE_HINTS = {
    "conmon": "install the package conmon",
    "crun": "install the package crun, or name another OCI runtime in the configuration",
    "runc": "install the package runc, or name another OCI runtime in the configuration",
    "runsc": "install gVisor: the package runsc",
    "catatonit": "install the package catatonit",
    "criu": "install the package criu",
    "qemu-system-x86_64": "install the package qemu-system-x86",
    "virtiofsd": "install the package virtiofsd (Debian 12: qemu-system-common)",
    "unshare": "install the package util-linux",
    "mkfs.erofs": "install the package erofs-utils",
    **dict.fromkeys(("mkfs.ext4", "mke2fs", "e2fsck", "resize2fs"), "install the package e2fsprogs"),
    **dict.fromkeys(("mkfs.xfs", "xfs_repair", "xfs_growfs"), "install the package xfsprogs"),
}
"""By the program's name. Packages are called as in Debian."""
