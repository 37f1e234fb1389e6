"""Debian's containerd as a process of its own, without systemd: private roots, socket, bridge and range.

    with running_containerd() as runtime:
        async with Connection(runtime.endpoint) as connection: ...

The program is the one on PATH, or that of Debian's package, which is unpacked and not installed: its unit
would start a daemon on the developer's machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.images import BuiltImage, BuiltLayer, Entry, layer_tar, machine_architecture, write_oci_archive
from tests.shares import own_share
from tests.system.labs.leftovers import force_away, remove_cgroups

START_SECONDS = 120.0
COMMAND_SECONDS = 300.0
PAUSE = "localhost/pause:test"
PACKAGES = ("containerd",)
CGROUP = "/k8s.io"
"""Where it puts containers of pods that name no cgroup."""
_numbers = own_share(1 << 12)
_CNI = Path("/usr/lib/cni")
_TREES = Path("/sys/fs/cgroup")
_CONFIG = """\
version = 2
root = "{root}/d"
state = "{root}/s"
oom_score = 0
[grpc]
address = "{root}/containerd.sock"
[debug]
level = "warn"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{root}/net.d"
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


@dataclass(frozen=True)
class Containerd:
    """A daemon that is up."""

    root: Path
    programs: Path

    @property
    def endpoint(self) -> str:
        return f"unix://{self.root}/containerd.sock"

    @property
    def log(self) -> str:
        return (self.root / "containerd.log").read_text(errors="replace")

    def ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Its own command line: the CRI has no import."""
        command = [str(self.programs / "ctr"), "--address", f"{self.root}/containerd.sock"]
        return subprocess.run(
            [*command, "--namespace=k8s.io", *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def import_images(self, built: Sequence[BuiltImage]) -> None:
        archive = self.root / "images.tar"
        write_oci_archive(archive, built)
        done = self.ctr("images", "import", str(archive))
        assert done.returncode == 0, done.stderr
        archive.unlink()


def containerd_programs(directory: Path) -> Path:
    """Where containerd, its shim and ctr are; the test is skipped where they cannot be had."""
    installed = shutil.which("containerd")
    if installed is not None:
        return Path(installed).parent
    if shutil.which("apt-get") is None:
        pytest.skip("containerd is not installed, and there is no apt-get to get it by")
    for command in (["apt-get", "download", "-qq", *PACKAGES], ["dpkg-deb", "-x", "", "."]):
        if command[0] == "dpkg-deb":
            command[2] = str(next(directory.glob("containerd_*.deb")))
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"containerd cannot be had: {done.stderr.strip()[-200:]}")
    return directory / "usr" / "bin"


@contextlib.contextmanager
def running_containerd(built: Sequence[BuiltImage]) -> Iterator[Containerd]:
    """A daemon that answers, with these images; everything goes at the end."""
    if not _CNI.is_dir() or shutil.which("runc") is None or shutil.which("catatonit") is None:
        pytest.skip("containerd needs runc, catatonit and the CNI plugins here")
    root = Path(tempfile.mkdtemp(prefix=f"ctrd{os.getpid()}-", dir="/tmp"))
    root.chmod(0o711)
    bridge = f"ct{secrets.token_hex(3)}"
    has_others = any(os.path.exists(f"{tree}{CGROUP}") for tree in (_TREES, *_TREES.iterdir()))
    process: subprocess.Popen[bytes] | None = None
    try:
        (root / "packages").mkdir()
        runtime = Containerd(root, containerd_programs(root / "packages"))
        _write_settings(root, bridge)
        with (root / "containerd.log").open("wb") as log:
            process = subprocess.Popen(
                [str(runtime.programs / "containerd"), "--config", f"{root}/config.toml"],
                env={**os.environ, "PATH": f"{runtime.programs}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_until_it_answers(runtime, process)
        runtime.import_images([_pause_image(), *built])
        yield runtime
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(COMMAND_SECONDS)
        force_away(root, f"/{root.name}", bridge)
        if not has_others:
            remove_cgroups(CGROUP)
        shutil.rmtree(root)


def _write_settings(root: Path, bridge: str) -> None:
    number = next(_numbers)
    network = {
        "cniVersion": "1.0.0",
        "name": bridge,
        "plugins": [
            {
                "type": "bridge", "bridge": bridge, "isGateway": True, "ipMasq": False,
                "ipam": {
                    "type": "host-local", "dataDir": f"{root}/cni",
                    "ranges": [[{"subnet": f"10.{224 + number // 256}.{number % 256}.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }  # fmt: skip
    (root / "net.d").mkdir()
    (root / "net.d" / "10-test.conflist").write_text(json.dumps(network))
    # overlay in overlay is refused by the kernel, as where the tests run in a container
    snapshotter = "overlayfs" if _is_upper(root) else "native"
    (root / "config.toml").write_text(_CONFIG.format(root=root, pause=PAUSE, snapshotter=snapshotter))


def _is_upper(root: Path) -> bool:
    """Whether an overlay's writable layer may lie here."""
    found = subprocess.run(["stat", "-f", "-c", "%T", str(root)], capture_output=True, text=True, check=True)
    return found.stdout.strip() != "overlayfs"


def _pause_image() -> BuiltImage:
    program = shutil.which("catatonit")
    assert program is not None
    layers = (BuiltLayer(layer_tar([Entry("catatonit", Path(program).read_bytes(), 0o755)])),)
    return BuiltImage(layers, {"Entrypoint": ["/catatonit", "-P"]}, (PAUSE,), machine_architecture())


def _wait_until_it_answers(runtime: Containerd, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while runtime.ctr("version").returncode != 0:
        assert process.poll() is None, f"containerd has ended:\n{runtime.log[-3000:]}"
        assert time.monotonic() < deadline, f"containerd does not answer:\n{runtime.log[-3000:]}"
        time.sleep(0.05)  # without systemd it tells nobody
