"""SELinux labels of a container's processes and files.

A part that the container's options leave open comes from the pod's, then from the policy's default. Pods are
kept apart by their level: two categories of the pod's own, unless a level is asked for.
"""

from __future__ import annotations

import re

from crib.model.container import ContainerConfig
from crib.model.errors import InvalidRequest
from crib.model.facts import HostFacts
from crib.model.sandbox import NamespaceMode, NamespaceOptions, SandboxConfig, SelinuxOption

PRIVILEGED_LEVEL = "s0:c1022,c1023"
"""Level of a privileged container's files; given to no pod, so that no confined process can reach them."""
CATEGORIES = 1024
_OPTIONS = "linux.security_context.selinux_options"
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SENSITIVITY = r"s\d{1,2}(?::c\d{1,4}(?:\.c\d{1,4})?(?:,c\d{1,4}(?:\.c\d{1,4})?)*)?"
_LEVEL = re.compile(rf"{_SENSITIVITY}(?:-{_SENSITIVITY})?")


def is_separated(privileged: bool, spaces: NamespaceOptions) -> bool:
    """Whether SELinux keeps the processes from the node: not with the node's own pids or ipc (label
    disabled).
    """
    return not privileged and NamespaceMode.NODE not in (spaces.pid, spaces.ipc)


def process_label(config: ContainerConfig, pod: SandboxConfig, host: HostFacts, level: str) -> str:
    """`level` is the pod's own; empty where SELinux is off, or the container is not separated."""
    security = config.security
    if not host.selinux or not is_separated(security.privileged, security.namespaces):
        return ""
    return _context(host.selinux_process, (security.selinux, pod.security.selinux), level, whole=True)


def file_label(config: ContainerConfig, pod: SandboxConfig, host: HostFacts, level: str) -> str:
    """Label of the container's files: the level and user of its processes, the policy's role and type."""
    security = config.security
    if not host.selinux:
        return ""
    if not is_separated(security.privileged, security.namespaces):
        return _context(host.selinux_file, (), PRIVILEGED_LEVEL, whole=False)
    return _context(host.selinux_file, (security.selinux, pod.security.selinux), level, whole=False)


def pod_labels(pod: SandboxConfig, host: HostFacts, level: str) -> tuple[str, str]:
    """Labels of the pod's infra process, and of the files that its containers share."""
    options = (pod.security.selinux,)
    if not host.selinux:
        return "", ""
    files = _context(host.selinux_file, options, level, whole=False)
    if not is_separated(pod.security.privileged, pod.security.namespaces):
        return "", files
    return _context(host.selinux_process, options, level, whole=True), files


def wanted_level(option: SelinuxOption | None) -> str:
    """The level that was asked for, checked; empty when none was."""
    if option is None or not option.level:
        return ""
    if not _LEVEL.fullmatch(option.level):
        raise InvalidRequest(f"{option.level!r} is not a level such as s0:c1,c2", field=f"{_OPTIONS}.level")
    return option.level


def _context(default: str, options: tuple[SelinuxOption | None, ...], level: str, *, whole: bool) -> str:
    user, role, kind, *_ = default.split(":", 3)
    for option in filter(None, reversed(options)):
        level = wanted_level(option) or level
        user = _word(option.user, "user") or user
        if whole:
            role = _word(option.role, "role") or role
            kind = _word(option.type, "type") or kind
    return f"{user}:{role}:{kind}:{level or 's0'}"


def _word(text: str, part: str) -> str:
    if text and not _WORD.fullmatch(text):
        raise InvalidRequest(f"{text!r} is not a name of a policy", field=f"{_OPTIONS}.{part}")
    return text
