"""script/run in a copy of its own: another name, subnet and port, roots below a temporary directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.registry import free_port
from tests.shares import own_share

CHECKOUT = Path(__file__).resolve().parents[3]
_PROGRAMS = Path(sys.executable).parent
_numbers = own_share(512)


@dataclass(frozen=True)
class Demo:
    """A copied checkout. `replacements` turn what script/run says and does into what this copy does."""

    checkout: Path
    data: Path
    state: Path
    name: str
    port: int
    subnet: str

    @property
    def replacements(self) -> Mapping[str, str]:
        return {
            "/var/lib/$name": str(self.data),
            "/var/lib/crib-demo": str(self.data),
            "/run/$name": str(self.state),
            "/run/crib-demo": str(self.state),
            "crib-demo": self.name,
            "10.89.0.0/16": self.subnet,
            "8088": str(self.port),
            # a virtual environment is not copied, and setting one up is not what is looked at here
            ".venv/bin/": f"{_PROGRAMS}/",
            "\nscript/setup\n": "\n",
        }

    @property
    def environment(self) -> dict[str, str]:
        """What script/run tells its reader to export."""
        return {
            **os.environ,
            "CRIB_ENDPOINT": f"unix://{self.state}/crib.sock",
            "CRIB_PODS_DIR": f"{self.data}/pods",
            "PATH": f"{_PROGRAMS}:{os.environ['PATH']}",
            "COLUMNS": "100",
        }

    def adapt(self, text: str) -> str:
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        return text

    def shell(self, command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command line in the copy; its errors are part of its output."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )


def copy_demo(root: Path) -> Demo:
    """Make a copy below `root`, which must be short: a socket lies in it."""
    number = next(_numbers)
    demo = Demo(
        checkout=root / "checkout",
        data=root / "data",
        state=root / "state",
        name=f"cribdemo{os.getpid()}",
        port=free_port(),
        subnet=f"198.{18 + number // 256}.{number % 256}.0/24",  # RFC 2544: in use nowhere
    )
    for part in ("script", "examples"):
        shutil.copytree(CHECKOUT / part, demo.checkout / part)
    for file in ("script/run", "examples/web.yaml"):
        path = demo.checkout / file
        path.write_text(demo.adapt(path.read_text()))
    return demo
