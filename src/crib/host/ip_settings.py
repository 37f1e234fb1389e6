"""Kernel parameters of IP by interface (the kernel's ip-sysctl), and forwarding between interfaces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from crib.host.links import check_interface_name

Family = Literal["ipv4", "ipv6"]


def interface_option(family: Family, name: str, option: str, *, proc_sys: str = "/proc/sys") -> int | None:
    """What `net.FAMILY.conf.NAME.OPTION` is; None without it, as for ipv6 on a kernel that has none."""
    try:
        with open(_path(family, name, option, proc_sys), encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return None


def set_interface_option(
    family: Family, name: str, option: str, value: int, *, proc_sys: str = "/proc/sys"
) -> None:
    """Set `net.FAMILY.conf.NAME.OPTION`; quietly nothing for ipv6 on a kernel without it."""
    try:
        descriptor = os.open(_path(family, name, option, proc_sys), os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if family == "ipv6":
            return
        raise
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def is_forwarding(version: int, *, proc_sys: str = "/proc/sys") -> bool:
    """Whether the host forwards between interfaces, for IP `version` 4 or 6."""
    family: Family = "ipv6" if version == 6 else "ipv4"
    return bool(interface_option(family, "all", "forwarding", proc_sys=proc_sys))


def enable_ipv4_forwarding() -> bool:
    """Have the host forward between interfaces; True if that was off."""
    if is_forwarding(4):
        return False
    # Unlike conf.all.forwarding it also turns off what only a host that is no router should do.
    with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
        file.write("1")
    return True


def enable_ipv6_forwarding(*, proc_sys: str = "/proc/sys") -> Sequence[str] | None:
    """The same for IPv6; None if that was on, else the interfaces whose accept_ra went from 1 to 2.

    A host that forwards accepts router advertisements only on interfaces with accept_ra 2, and forgets the
    routes that it learned on others. Without that change it would cut itself off.
    """
    if interface_option("ipv6", "all", "forwarding", proc_sys=proc_sys) != 0:
        return None
    kept: list[str] = []
    for name in sorted(os.listdir(f"{proc_sys}/net/ipv6/conf")):
        if name in {"all", "default", "lo"}:
            continue
        if interface_option("ipv6", name, "accept_ra", proc_sys=proc_sys) == 1:
            set_interface_option("ipv6", name, "accept_ra", 2, proc_sys=proc_sys)
            kept.append(name)
    set_interface_option("ipv6", "all", "forwarding", 1, proc_sys=proc_sys)
    return kept


def can_filter_bridged(*, proc_sys: str = "/proc/sys") -> bool:
    """Whether br_netfilter is loaded: IP rules can then see traffic between ports of a bridge."""
    return os.path.exists(f"{proc_sys}/net/bridge")


def _path(family: Family, name: str, option: str, proc_sys: str) -> str:
    return f"{proc_sys}/net/{family}/conf/{check_interface_name(name)}/{option}"
