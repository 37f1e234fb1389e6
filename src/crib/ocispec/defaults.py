"""What the node gives where nothing is asked for, and what a pod may ask for instead by annotation.

The annotations have our names, and CRI-O's, so that pods written for it run as they are. They count only
where the handler's `annotations` let them through; else they are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from crib.model.container import ContainerConfig
from crib.model.errors import FieldOf, InvalidRequest
from crib.model.sandbox import SandboxConfig
from crib.model.settings import ContainerDefaults, HandlerSettings, NodeMount

SHM_SIZE = ("io.crib.shm-size", "io.kubernetes.cri-o.ShmSize")
UMASK = ("io.crib.umask", "io.kubernetes.cri-o.umask")
NOTIFIER = ("seccomp-notifier-action.crio.io", "io.kubernetes.cri-o.seccompNotifierAction")
"""Has CRI-O listen to what a container's seccomp profile refuses, and stop the container for it."""
MIN_SHM_SIZE = 4096
"""Bytes: a page."""
MAX_SHM_SIZE = 1 << 40
"""Bytes. What is written there counts as the memory of the container that writes it."""
ZONES = "/usr/share/zoneinfo"
LOCAL_ZONE = "local"
_LOCALTIME = "/etc/localtime"
ULIMITS = frozenset(
    {"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"}
    | {"rtprio", "rttime", "sigpending", "stack"}
)
"""setrlimit(2), in lower case and without RLIMIT_."""
_OBEYED = ("run.oci.", "org.systemd.property.", "org.criu.", "module.wasm.")
"""Beginnings of keys that a runtime obeys: a pattern that is only wide enough for them does not stand for
them."""
_NO_LIMIT = (1 << 64) - 1
_SIZE = re.compile(r"([0-9]{1,15})(Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One that counts, and where it stands."""

    value: str
    field: str
    of: FieldOf


def annotation(
    names: tuple[str, ...], pod: SandboxConfig, container: ContainerConfig | None, patterns: tuple[str, ...]
) -> Annotation | None:
    """The container's, else the pod's, by the first of its names that is there and let through."""
    holders = [(FieldOf.OWN, pod.annotations)]
    if container is not None:
        holders = [(FieldOf.OWN, container.annotations), (FieldOf.POD, pod.annotations)]
    for holder, given in holders:
        for name in names:
            if name in given and passes(name, patterns):
                return Annotation(given[name], f"annotations[{name}]", holder)
    return None


def passes(key: str, patterns: Sequence[str]) -> bool:
    """Whether one of the handler's patterns lets this key through; `*` stands for any characters.

    OCI runtimes obey some annotations: crun's `run.oci.*` changes how a container is confined, and runc and
    crun set properties of a systemd scope from `org.systemd.property.*` (CVE-2024-3154).
    """
    obeyed = next((start for start in _OBEYED if key.startswith(start)), "")
    return any(
        pattern.startswith(obeyed)
        and re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), key, re.DOTALL)
        for pattern in patterns
    )


def shm_size(pod: SandboxConfig, options: HandlerSettings) -> int:
    """Bytes of the pod's /dev/shm, by annotation or the node's; InvalidRequest."""
    asked = annotation(SHM_SIZE, pod, None, options.annotations)
    if asked is None:
        return options.containers.shm_size
    match = _SIZE.fullmatch(asked.value)
    size = int(match[1]) * _UNITS[match[2] or ""] if match else 0
    if not MIN_SHM_SIZE <= size <= MAX_SHM_SIZE:
        raise InvalidRequest(
            f"{asked.value[:80]!r} is not a size such as 128Mi, from {MIN_SHM_SIZE} bytes to 1Ti",
            field=asked.field,
        )
    return size


def check_notifier(pod: SandboxConfig, options: HandlerSettings) -> None:
    """InvalidRequest for a pod that relies on being stopped: nobody would (docs/adr/0088)."""
    asked = annotation(NOTIFIER, pod, None, options.annotations)
    if asked is not None:
        raise InvalidRequest(
            "crib stops no container for the system calls that it tries: have the profile kill it"
            " (SCMP_ACT_KILL_PROCESS), or name an agent of your own in its listenerPath",
            field=asked.field,
        )


def parse_umask(text: str) -> int:
    """Permission bits in octal; ValueError."""
    if not re.fullmatch(r"[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError(f"{text[:80]!r} is not a umask such as 027")
    return int(text, 8)


def parse_ulimit(text: str) -> tuple[int, int]:
    """Soft and hard limit; ValueError."""
    soft, colon, hard = text.partition(":")
    limits = _limit(soft), _limit(hard if colon else soft)
    if limits[0] > limits[1]:
        raise ValueError(f"{text!r} has a soft limit above the hard one")
    return limits


def _limit(text: str) -> int:
    if text == "unlimited":
        return _NO_LIMIT
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text[:80]!r} is neither a number nor unlimited")
    return int(text)


def parse_device(text: str) -> tuple[str, str, str]:
    """Path on the host, path in the container, permissions; ValueError."""
    host, _, rest = text.partition(":")
    container, colon, permissions = rest.partition(":")
    container, permissions = container or host, permissions if colon else "rwm"
    for path in (host, container):
        if not path.startswith("/dev/") or ".." in path.split("/"):
            raise ValueError(f"{path!r} is not a path below /dev")
    if not permissions or set(permissions) - set("rwm"):
        raise ValueError(f"{permissions!r} is not made of r, w and m")
    return host, container, permissions


def node_mounts(defaults: ContainerDefaults) -> tuple[NodeMount, ...]:
    """The mounts that are set, and the time zone's, which is one."""
    if not defaults.timezone or any(mount.destination == _LOCALTIME for mount in defaults.mounts):
        return defaults.mounts
    local = defaults.timezone == LOCAL_ZONE
    zone = NodeMount(_LOCALTIME if local else f"{ZONES}/{defaults.timezone}", _LOCALTIME)
    return (*defaults.mounts, zone)
