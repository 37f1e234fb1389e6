"""critest against cribd as the unit of this guest:

    python -m tests.guest.conformance HANDLER CRITEST REPORT [ARGUMENTS OF critest…]

CRIB_CRITEST_MIRROR is a registry that has critest's images, as the guest sees it (the host's loopback is
10.0.2.2); without it they are pulled from where they are published.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.guest.node import SOCKET, Node

REGISTRIES = ("registry.k8s.io", "gcr.io", "k8s.gcr.io")
TIMEOUT = "90m"
CALL_TIMEOUT = "600s"
"""critest gives a call 10 s by itself: too little where each instruction is emulated."""
SUDO = """#!/bin/sh
exec env "$@"
"""
"""critest loads its AppArmor profiles by sudo, which a guest does not have: everything there runs as root."""


def settings(handler: str, mirror: str) -> str:
    lines = [
        'cgroup_driver = "systemd"', f'default_handler = "{handler}"', "[network]", 'mode = "bridge"',
        f"[handlers.{handler}]", "[images.mirrors]",
    ]  # fmt: skip
    lines += [f'"{name}" = ["{mirror}"]' for name in REGISTRIES if mirror]
    return "\n".join(lines) + "\n"


def main(handler: str, program: str, report: str, *arguments: str) -> int:
    node = Node(settings(handler, os.environ.get("CRIB_CRITEST_MIRROR", "")))
    node.start()
    endpoint = f"unix://{SOCKET}"
    with tempfile.TemporaryDirectory() as programs:
        sudo = Path(programs, "sudo")
        sudo.write_text(SUDO)
        sudo.chmod(0o755)
        try:
            done = subprocess.run(
                [program, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--ginkgo.no-color",
                 "--ginkgo.seed", "1", "--ginkgo.timeout", TIMEOUT, "--ginkgo.poll-progress-after", "600s",
                 "--ginkgo.junit-report", report, "--runtime-service-timeout", CALL_TIMEOUT,
                 "--image-service-timeout", CALL_TIMEOUT, *arguments],
                check=False, env={**os.environ, "PATH": f"{os.environ['PATH']}:{programs}"},
            )  # fmt: skip
            Path(report).with_name("cribd.log").write_text(node.journal())
        finally:
            node.end()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
