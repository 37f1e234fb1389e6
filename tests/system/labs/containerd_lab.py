"""Debian's containerd as a process of its own, where it is installed: private root, state and images.

Pods are on the node's network, so that it needs no CNI. CRIB_CONTAINERD names a directory with its programs
if they are not on PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crib.client import SyncClient
from crib.client.errors import ClientError
from tests.images import (
    BuiltImage,
    BuiltLayer,
    Entry,
    busybox_image,
    layer_tar,
    machine_architecture,
    write_oci_archive,
)
from tests.system.labs.daemon import IMAGE, START_SECONDS, STOP_SECONDS

PAUSE = "localhost/pause:test"
CONFIG = """\
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{root}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{root}/net.d"
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "crun"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
BinaryName = "{crun}"
"""


@dataclass(frozen=True)
class Containerd:
    """One that answers."""

    root: Path

    @property
    def endpoint(self) -> str:
        return f"unix://{self.root}/c.sock"


@contextlib.contextmanager
def running_containerd() -> Iterator[Containerd]:
    """With the busybox image of the other stories; pods, processes and mounts are gone at the end."""
    place = os.environ.get("CRIB_CONTAINERD", "")
    path = f"{place}:{os.environ['PATH']}" if place else os.environ["PATH"]
    programs = {name: shutil.which(name, path=path) for name in ("containerd", "ctr", "crun", "catatonit")}
    if missing := [name for name, found in programs.items() if found is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    root = Path(tempfile.mkdtemp(prefix=f"crib{os.getpid()}-", dir="/tmp"))
    (root / "config.toml").write_text(CONFIG.format(root=root, pause=PAUSE, crun=programs["crun"]))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(programs["containerd"]), "--config", str(root / "config.toml")],
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    containerd = Containerd(root)
    try:
        _wait_until_ready(containerd, process)
        _import_images(root, str(programs["ctr"]), str(programs["catatonit"]))
        yield containerd
    finally:
        with contextlib.suppress(ClientError), SyncClient(containerd.endpoint) as client:
            for pod in client.pods():
                client.remove_pod(pod)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
        _unmount_below(root)
        shutil.rmtree(root)


def _wait_until_ready(containerd: Containerd, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ClientError), SyncClient(containerd.endpoint) as client:
            client.status()
            return
        time.sleep(0.05)  # it tells only systemd
    log = (containerd.root / "log").read_text(errors="replace")
    raise AssertionError(f"containerd did not come up:\n{log[-4000:]}")


def _import_images(root: Path, ctr: str, catatonit: str) -> None:
    program = Entry("catatonit", Path(catatonit).read_bytes(), 0o755)
    entry = {"Entrypoint": ["/catatonit", "-P"]}
    pause = BuiltImage((BuiltLayer(layer_tar([program])),), entry, (PAUSE,), machine_architecture())
    for image in (pause, busybox_image(name=IMAGE)):
        archive = root / "image.tar"
        write_oci_archive(archive, [image])
        command = [ctr, "--address", f"{root}/c.sock", "--namespace", "k8s.io", "images", "import"]
        subprocess.run([*command, str(archive)], check=True, capture_output=True, timeout=START_SECONDS)
        archive.unlink()


def _unmount_below(root: Path) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        points = [line.split(" ", 5)[4] for line in lines]
    for point in reversed([point for point in points if point.startswith(f"{root}/")]):
        subprocess.run(["umount", point], check=False, timeout=STOP_SECONDS)
