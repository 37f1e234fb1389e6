"""crib beside the distribution's containerd in one guest, measured by `crib bench`.

    script/guest trixie python -m tests.guest.bench [--handler runc] [OPTIONS OF crib bench…]

Both have systemd's cgroups, the same CNI network, the same OCI runtime (crun, or runc by --handler) and the
same image. The table on standard output is that of `crib bench`. What is started and written here stays: the
guest is thrown away.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from crib.bench.image import write_archive
from tests.guest.node import PROGRAMS, SOCKET, Node, output, run
from tests.images import BuiltImage, BuiltLayer, Entry, layer_tar, machine_architecture, write_oci_archive

PLACE = Path("/run/crib-guest-bench")
"""Configuration and archives. The runtimes' own state is where a node has it."""
IMAGE = "localhost/crib-bench:latest"
PAUSE = "localhost/pause:latest"
SLICE = "bench.slice"
"""The pods' parent: a kubelet makes it beforehand, and containerd has none of its own under systemd."""
ENDPOINTS = {"crib": f"unix://{SOCKET}", "containerd": "unix:///run/containerd/containerd.sock"}
START_SECONDS = 300
"""Until a runtime answers where each instruction is emulated."""

NETWORK = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "plugins": [
        {
            "type": "bridge", "bridge": "bench0", "isGateway": True, "ipMasq": True,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}  # fmt: skip
CRIB = """\
cgroup_driver = "systemd"
default_handler = "{handler}"
[network]
mode = "cni"
cni_conf_dir = "{place}/net.d"
cni_bin_dirs = ["/usr/lib/cni"]
[handlers.{handler}]
"""
CONTAINERD = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{place}/net.d"
bin_dir = "/usr/lib/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "{handler}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}.options]
BinaryName = "{program}"
SystemdCgroup = true
"""
CONTAINERD_UNIT = """\
[Service]
ExecStart=
ExecStart={containerd} --config {place}/containerd.toml
TimeoutStartSec={seconds}
"""


def main(argv: list[str]) -> int:
    handler, options = (argv[1], argv[2:]) if argv[:1] == ["--handler"] else ("crun", argv)
    words = {
        "handler": handler, "program": _program(handler), "containerd": _program("containerd"),
        "place": PLACE, "pause": PAUSE, "seconds": START_SECONDS,
    }  # fmt: skip
    (PLACE / "net.d").mkdir(parents=True)
    (PLACE / "net.d" / "10-bench.conflist").write_text(json.dumps(NETWORK))
    (PLACE / "containerd.toml").write_text(CONTAINERD.format(**words))
    _write_images()
    _start_containerd(CONTAINERD_UNIT.format(**words))
    Node(CRIB.format(**words)).start()
    for program in (handler, "containerd"):
        print(output(program, "--version").splitlines()[0], file=sys.stderr, flush=True)
    endpoints = [f"--endpoint={name}={address}" for name, address in ENDPOINTS.items()]
    bench = [str(PROGRAMS / "crib"), "bench", f"--cgroup-parent={SLICE}", *endpoints, *options]
    return subprocess.run(bench, check=False).returncode


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is not in this guest")
    return found


def _write_images() -> None:
    """The containers' one, as `crib bench` makes it, and the pause image from a static program."""
    write_archive(str(PLACE / "image.tar"), IMAGE)
    program = Entry("catatonit", Path(_program("catatonit")).read_bytes(), 0o755)
    layers = (BuiltLayer(layer_tar([program])),)
    pause = BuiltImage(layers, {"Entrypoint": ["/catatonit", "-P"]}, (PAUSE,), machine_architecture())
    write_oci_archive(PLACE / "pause.tar", [pause])


def _start_containerd(unit: str) -> None:
    """By its own unit, with our configuration. Its images come past the CRI, which has no import."""
    directory = Path("/run/systemd/system/containerd.service.d")
    directory.mkdir(parents=True)
    (directory / "bench.conf").write_text(unit)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "containerd")
    for archive in ("pause.tar", "image.tar"):
        run("ctr", "--timeout=200s", "--namespace=k8s.io", "images", "import", f"{PLACE}/{archive}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
