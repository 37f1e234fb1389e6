"""`[containers]`, and the same for one handler: `[handlers.NAME.containers]`."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable

from crib.config.document import Table, lay_over
from crib.config.values import Rule, Rules, absolute, absolute_or_none, one_of
from crib.host.sysctls import check_value, required_namespace
from crib.model.settings import ContainerDefaults, Settings
from crib.ocispec.defaults import (
    LOCAL_ZONE,
    MAX_SHM_SIZE,
    MIN_SHM_SIZE,
    ULIMITS,
    ZONES,
    parse_device,
    parse_ulimit,
    parse_umask,
)
from crib.ocispec.init_system import CHOICES
from crib.ocispec.security import KNOWN_CAPABILITIES

_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def _understood(parse: Callable[[str], object], what: str) -> Rule:
    def rule(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            return f"{what} ({error})"
        return ""

    return rule


def _capability(name: str) -> str:
    return "" if name in KNOWN_CAPABILITIES else "a capability without its CAP_, such as NET_RAW"


def _variable(name: str) -> str:
    return "" if re.fullmatch(r"[^=\0]+", name) else "that of a variable"


def _sysctl(name: str) -> str:
    try:
        return "" if required_namespace(name) else "a sysctl of a pod's own network or IPC, in quotes"
    except ValueError as error:
        return f"a sysctl's ({error})"


def _shm_size(size: int) -> str:
    good = MIN_SHM_SIZE <= size <= MAX_SHM_SIZE
    return "" if good else f"a number of bytes from {MIN_SHM_SIZE} to {MAX_SHM_SIZE}"


def _timezone(name: str) -> str:
    known = not name or name == LOCAL_ZONE or (_ZONE.fullmatch(name) and os.path.isfile(f"{ZONES}/{name}"))
    return "" if known else f"{LOCAL_ZONE} or a time zone that this machine has below {ZONES}"


def _umask(text: str) -> str:
    return _understood(parse_umask, "a umask")(text) if text else ""


def _ulimit_name(name: str) -> str:
    return "" if name in ULIMITS else f"one of {', '.join(sorted(ULIMITS))}"


_KEYS: Rules = {
    "capabilities": _capability,
    "devices": _understood(parse_device, "HOST[:CONTAINER[:PERMISSIONS]]"),
    "env": _variable,
    "mounts.source": absolute,
    "mounts.destination": absolute,
    "seccomp_profile": absolute_or_none,
    "shm_size": _shm_size,
    "sysctls": _sysctl,
    "sysctls.*": _understood(lambda value: check_value("", value), "one line of printable text"),
    "timezone": _timezone,
    "ulimits": _ulimit_name,
    "ulimits.*": _understood(parse_ulimit, "SOFT:HARD, or one number for both"),
    "umask": _umask,
    "writable_cgroups": one_of(*CHOICES),
}
RULES: Rules = {
    f"{table}.{key}": rule for table in ("containers", "handlers.*.containers") for key, rule in _KEYS.items()
}


def with_node_defaults(table: Table) -> Table:
    """Each handler's containers laid over the node's, as a later file is over an earlier one."""
    handlers = table.get("handlers", {name: {} for name in Settings().handlers})
    whole = {}
    for name, handler in handlers.items():
        containers = copy.deepcopy(table.get("containers", {}))
        lay_over(containers, handler.get("containers", {}))
        whole[name] = {**handler, "containers": containers}
    return {**table, "handlers": whole}


def check_containers(settings: ContainerDefaults, table: str) -> None:
    """What the keys' own rules do not see; ValueError."""
    for mount in settings.mounts:
        if not mount.source or os.path.normpath(mount.destination) in (".", "/"):
            raise ValueError(f"{table}.mounts: each needs a source, and a destination that is not the root")
    places = [os.path.normpath(mount.destination) for mount in settings.mounts]
    if twice := {place for place in places if places.count(place) > 1}:
        raise ValueError(f"{table}.mounts: {min(twice)} is the destination of more than one")
