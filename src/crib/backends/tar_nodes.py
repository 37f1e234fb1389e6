"""What an archive has that is made by its name alone: it is never opened, by us or by what it leads to."""

from __future__ import annotations

import os

from crib.wire.tar_member import Kind, Member


def make_node(member: Member, name: bytes, directory: int) -> bool:
    """Make a symbolic link or a FIFO in a directory that is open, with its owner, mode and times.

    False for another kind, of which nothing is made. OSError.
    """
    if member.kind is Kind.SYMLINK:
        os.symlink(member.link, name, dir_fd=directory)
    elif member.kind is Kind.FIFO:
        os.mkfifo(name, 0o600, dir_fd=directory)
    else:
        return False
    os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
    if member.kind is not Kind.SYMLINK:
        os.chmod(name, member.mode & 0o7777, dir_fd=directory)  # made just now, and nobody else is here
    os.utime(name, ns=times_of(member), dir_fd=directory, follow_symlinks=False)
    return True


def times_of(member: Member) -> tuple[int, int]:
    """For os.utime: access and change of its content, in nanoseconds since the epoch."""
    nanoseconds = member.mtime * 1_000_000_000 + member.mtime_nsec
    return nanoseconds, nanoseconds
