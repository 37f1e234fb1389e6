"""Bundles of containers for a guest: a root with busybox, and a config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

APPLETS = (
    "sh", "echo", "cat", "sleep", "ls", "id", "head", "yes", "stty", "tail", "env", "true", "dd", "nc", "tr",
    "ps", "kill", "hostname", "grep", "mkdir", "touch", "rm", "mount", "wc", "seq",
)  # fmt: skip
_CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]


def make_root(root: Path) -> None:
    """What a container sees."""
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")


def make_bundle(bundle: Path, script: str, cgroup: str, **changes: Any) -> None:
    """A bundle whose program is a script of the shell; `changes` are fields of config.json's `process`."""
    if not (bundle / "rootfs").exists():
        make_root(bundle / "rootfs")
    write_config(bundle, config(script, cgroup, **changes))


def write_config(bundle: Path, spec: dict[str, Any]) -> None:
    """Its config.json."""
    (bundle / "config.json").write_text(json.dumps(spec))


def config(script: str, cgroup: str, **changes: Any) -> dict[str, Any]:
    """A config.json as a host gives it to the guest: the pod's namespaces are the guest's own."""
    kinds = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(kinds, _CAPABILITIES),
            "noNewPrivileges": True,
            **changes,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "mode=755"],
            },
            {
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "annotations": {},
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}],
            "cgroupsPath": cgroup,
            "resources": {},
        },
    }  # fmt: skip
