"""Layers that try to reach the host when they are unpacked; see tests/unit/backends/test_image_cves.py."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.images import Entry, directory

CANARY = b"a canary of the host"
"""What `outside/secret`, which the layers reach for, should have in it."""


def symlink(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, link=target, mode=0o777)


def hard_link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, link=target)


def looks(path: Path) -> tuple[int, int, int]:
    """What a write, a chmod or a link would change."""
    status = os.stat(path)
    return status.st_mode, status.st_mtime_ns, status.st_nlink


def _chain() -> list[Entry]:
    """Directories and links, longer than a path may be once all of them are followed (CVE-2025-4517)."""
    long = "d" * 247
    entries: list[Entry] = []
    path = ""
    for letter in "abcdefghijklmnop":
        entries += [directory(path + long), symlink(path + letter, long)]
        path += f"{long}/"
    short = "/".join("abcdefghijklmnop")
    ways_up = "../" * 16
    entries.append(symlink(f"{short}/{'l' * 254}", ways_up))
    entries.append(symlink("escape", f"{short}/{'l' * 254}/../../../outside"))
    return [*entries, hard_link("flaglink", "escape/secret"), Entry("escape/new", b"x")]


LEADS_OUT: dict[str, Sequence[Entry]] = {
    "CVE-2021-32760 a link is given another mode": [
        symlink("passwd", "/etc/passwd"),
        Entry("passwd", b"mine", 0o777),
        symlink("up", "../../outside"),
        Entry("up", b"", 0o4777),
    ],
    "CVE-2021-32760 a hard link to a link": [
        symlink("passwd", "../outside/secret"),
        hard_link("same", "passwd"),
        Entry("same", b"changed", 0o777),
    ],
    "CVE-2025-47290 a directory becomes a link": [
        directory("d"),
        Entry("d/file", b"1"),
        symlink("d", "../../outside"),
        Entry("d/secret", b"overwritten"),
        directory("d/made"),
    ],
    "CVE-2024-12718 a directory that is a link gets a mode": [
        symlink("here", ".."),
        symlink("there", "here/outside"),
        directory("there", 0o777),
    ],
    "CVE-2025-4138 a link by way of a link": [
        symlink("a", "."),
        symlink("a/b", "../.."),
        Entry("b/outside/new", b"x"),
    ],
    "CVE-2025-4517 a path longer than any": _chain(),
    "an absolute link in the way": [symlink("etc", "/"), Entry("etc/outside/new", b"x")],
    "CVE-2024-5154 a link to be made through": [symlink("etc", "/"), symlink("etc/mtab", "/proc/mounts")],
}
