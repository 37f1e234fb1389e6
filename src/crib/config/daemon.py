"""The keys without a table, and `[log]`."""

from __future__ import annotations

import os

from crib.config.values import Rules, absolute, absolute_or_none, at_least, between, one_of
from crib.model.settings import Settings

MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (unix(7), sun_path less its NUL)."""
MIN_LOG_SIZE = 64 << 10
"""Bytes of a container's log at least before it may be rotated: a few of the longest entries."""

RULES: Rules = {
    "data": absolute,
    "state": absolute,
    "socket": absolute_or_none,
    "log.level": one_of("debug", "info", "warning", "error", "critical"),
    "log.format": one_of("text", "json"),
    "cgroup_root": absolute,
    "cgroup_driver": one_of("cgroupfs", "systemd"),
    "pids_limit": at_least(0),
    "cdi_spec_dirs": absolute,
    "oci_hooks_dirs": absolute,
    "missing_host_path": one_of("create", "error"),
    "image_volumes": one_of("bind", "mkdir", "ignore"),
    "log_size_max": at_least(0),
    "log_files": at_least(2),
    "verb_timeout": at_least(0.1),
    "making_verbs": at_least(0),
    "nice": between(-20, 0),
}


def check_daemon(settings: Settings) -> None:
    """What more than one key decides; ValueError."""
    if settings.default_handler not in settings.handlers:
        raise ValueError(
            f"default_handler is {settings.default_handler!r}, which is not among the handlers"
            f" ({', '.join(sorted(settings.handlers)) or 'none'})"
        )
    if len(os.fsencode(settings.socket_path)) > MAX_SOCKET_PATH:
        raise ValueError(f"socket {settings.socket_path} has a path of more than {MAX_SOCKET_PATH} bytes")
    if 0 < settings.log_size_max < MIN_LOG_SIZE:
        raise ValueError(f"log_size_max is {settings.log_size_max}: it must be 0 or at least {MIN_LOG_SIZE}")
    if settings.data == settings.state:
        raise ValueError("data and state are the same directory")
