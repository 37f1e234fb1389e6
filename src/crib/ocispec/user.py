"""Who runs: numbers from names, looked up in the container's own passwd and group files (text, read
beforehand).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crib.model.container import ContainerSecurity
from crib.model.errors import InvalidRequest
from crib.model.facts import RootfsFacts
from crib.model.image import ImageConfig
from crib.wire import oci_runtime as oci

MAX_ID = 2**31 - 1
"""Largest uid and gid taken.

Beyond it programs that hold ids as signed numbers meet root again (CVE-2024-40635).
"""
_MERGE = 0
_MAX_GROUPS = 1024
_CONTEXT = "linux.security_context"


@dataclass(frozen=True, slots=True)
class PasswdEntry:
    """One line of passwd(5)."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One line of group(5)."""

    name: str
    gid: int
    members: tuple[str, ...]


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def parse_passwd(text: str) -> Iterator[PasswdEntry]:
    """The entries that can be used; others are passed over, as libc does."""
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) < 4 or not fields[0]:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            yield PasswdEntry(fields[0], uid, gid)


def parse_group(text: str) -> Iterator[GroupEntry]:
    """The entries that can be used."""
    for line in text.split("\n"):
        fields = line.rstrip("\r").split(":")
        if len(fields) < 3 or not fields[0]:
            continue
        gid = _number(fields[2])
        if gid is not None:
            members = tuple(filter(None, fields[3].split(","))) if len(fields) > 3 else ()
            yield GroupEntry(fields[0], gid, members)


def container_user(security: ContainerSecurity, image: ImageConfig, rootfs: RootfsFacts) -> oci.User:
    """CRI run_as_user, run_as_username or the image's user, with groups as the policy says (Merge or Strict).

    The primary group is among the additional ones (CVE-2022-36109: else a process could shed it by setgid
    programs). The image's groups come before the pod's, as a kubelet's tests have it.
    """
    wanted, group, field = _wanted(security, image)
    entry = _find_user(wanted, field, rootfs)
    gid = _find_group(group, field, rootfs) if group else entry.gid
    groups = {gid: None}
    if security.supplemental_groups_policy == _MERGE:
        groups.update(dict.fromkeys(_groups_of(entry, rootfs)))
    for position, extra in enumerate(security.supplemental_groups):
        groups[_checked(extra, f"{_CONTEXT}.supplemental_groups[{position}]")] = None
    if len(groups) > _MAX_GROUPS:
        raise InvalidRequest(f"{len(groups)} groups are more than {_MAX_GROUPS}", field=field)
    return oci.User(uid=entry.uid, gid=gid, additional_gids=tuple(groups))


def exec_user(user: str, rootfs: RootfsFacts) -> oci.User:
    """Who runs a later command: NAME or UID, perhaps with :GROUP; with the groups that name the user."""
    wanted, _, group = user.partition(":")
    entry = _find_user(wanted, "user", rootfs)
    gid = _find_group(group, "user", rootfs) if group else entry.gid
    groups = dict.fromkeys((gid, *_groups_of(entry, rootfs)))
    if len(groups) > _MAX_GROUPS:
        raise InvalidRequest(f"{len(groups)} groups are more than {_MAX_GROUPS}", field="user")
    return oci.User(uid=entry.uid, gid=gid, additional_gids=tuple(groups))


def _groups_of(entry: PasswdEntry, rootfs: RootfsFacts) -> Iterator[int]:
    """Those that name the user as a member."""
    if entry.name:
        yield from (found.gid for found in parse_group(rootfs.group) if entry.name in found.members)


def _wanted(security: ContainerSecurity, image: ImageConfig) -> tuple[str, str, str]:
    """User and group as text (the group may be empty), and the field to name in errors."""
    group = ""
    if security.run_as_group is not None:
        if security.run_as_user is None and not security.run_as_username:
            raise InvalidRequest(
                "it is set without run_as_user or run_as_username", field=f"{_CONTEXT}.run_as_group"
            )
        group = str(_checked(security.run_as_group, f"{_CONTEXT}.run_as_group"))
    if security.run_as_user is not None:
        return (
            str(_checked(security.run_as_user, f"{_CONTEXT}.run_as_user")),
            group,
            f"{_CONTEXT}.run_as_user",
        )
    if security.run_as_username:
        return security.run_as_username, group, f"{_CONTEXT}.run_as_username"
    user, _, image_group = image.user.partition(":")
    return user or "0", image_group, "image config User"


def _checked(number: int, field: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise InvalidRequest(f"{number} is not an id between 0 and {MAX_ID}", field=field)
    return number


def _find_user(wanted: str, field: str, rootfs: RootfsFacts) -> PasswdEntry:
    number = _numeric(wanted, field)
    for entry in parse_passwd(rootfs.passwd):
        if entry.uid == number if number is not None else entry.name == wanted:
            return entry
    if number is None:
        raise InvalidRequest(f"user {wanted!r} is not in the container's /etc/passwd", field=field)
    return PasswdEntry("", number, 0)


def _find_group(wanted: str, field: str, rootfs: RootfsFacts) -> int:
    number = _numeric(wanted, field)
    if number is not None:
        return number
    for entry in parse_group(rootfs.group):
        if entry.name == wanted:
            return entry.gid
    raise InvalidRequest(f"group {wanted!r} is not in the container's /etc/group", field=field)


def _numeric(text: str, field: str) -> int | None:
    """The id that the text stands for, None for a name.

    A number that is no id is refused, never looked up as a name.
    """
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if not unsigned.isascii() or not unsigned.isdigit():
        return None
    number = _number(text)
    if number is None:
        raise InvalidRequest(f"{text[:40]} is not an id between 0 and {MAX_ID}", field=field)
    return number
