"""critest against cribd as the unit of this guest: python -m tests.guest.conformance HANDLER CRITEST REPORT

CRIB_CRITEST_MIRROR is a registry that has critest's images, as the guest sees it (the host's loopback is
10.0.2.2); without it they are pulled from where they are published.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.guest.node import SOCKET, Node

REGISTRIES = ("registry.k8s.io", "gcr.io", "k8s.gcr.io")
TIMEOUT = "90m"


def settings(handler: str, mirror: str) -> str:
    lines = [
        'cgroup_driver = "systemd"', f'default_handler = "{handler}"', "[network]", 'mode = "bridge"',
        f"[handlers.{handler}]", "[images.mirrors]",
    ]  # fmt: skip
    lines += [f'"{name}" = ["{mirror}"]' for name in REGISTRIES if mirror]
    return "\n".join(lines) + "\n"


def main(handler: str, program: str, report: str) -> int:
    node = Node(settings(handler, os.environ.get("CRIB_CRITEST_MIRROR", "")))
    node.start()
    try:
        endpoint = f"unix://{SOCKET}"
        done = subprocess.run(
            [program, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--ginkgo.no-color",
             "--ginkgo.seed", "1", "--ginkgo.timeout", TIMEOUT, "--ginkgo.poll-progress-after", "600s",
             "--ginkgo.junit-report", report],
            check=False,
        )  # fmt: skip
        Path(report).with_name("cribd.log").write_text(node.journal())
    finally:
        node.end()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
