"""`python -m crib.vm.build`: makes what a VM pod's guest boots from, of what this node has installed.

The directory has `kernel`, `initrd`, `guest.erofs` and `manifest.json`. The same node and the same sources
give the same bytes. A directory that is there is replaced as a whole, at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crib import __version__
from crib.vm.build_initrd import ROOT_MODULES, initrd
from crib.vm.build_kernel import Kernel, find_kernel
from crib.vm.build_root import MODULES_ROOT, WANTED, GuestRoot, packages_of, run_program
from crib.vm.build_tree import BuildFailed, write_erofs
from crib.vm.build_vmlinux import unwrapped

LATER_MODULES = (
    *("virtio_console", "fuse", "virtiofs", "overlay", "virtio_net"),
    *("sd_mod", "virtio_scsi", "ext4"),
)
"""Loaded once the root is there, or when they are needed."""
OPTIONAL_MODULES = ("virtio_rng", "virtio_balloon", "virtio_mem", "vmw_vsock_virtio_transport")
"""What a kernel may lack."""
AGENT_MODULES = ("crib.vm.guest.init",)
"""Imported to find out what of Python's library the guest needs."""
KERNEL_ARGUMENTS = ("cryptomgr.notests", "initcall_blacklist=init_kprobe_trace,crypto_kdf108_init")
"""No self tests, no kprobes for tracing: together 0.2 s of an emulated boot. Unknown ones are passed over."""
FORMAT = 2
"""Of the manifest."""


@dataclass(frozen=True)
class ImageOrder:
    """What to make. `kernel` is a directory, a package's file, or empty for the node's own kernel."""

    output: Path
    kernel: str = ""
    modules: tuple[str, ...] = ()
    """Further modules of the kernel that containers may need."""
    moment: int = 0
    """The time that all files have, in seconds since 1970."""


def build(order: ImageOrder) -> dict[str, Any]:
    """Make the image, and return its manifest. BuildFailed says what is missing."""
    order.output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{order.output.name}-", dir=order.output.parent))
    try:
        made = scratch / "made"
        made.mkdir()
        manifest = _make(order, find_kernel(order.kernel, scratch), made)
        (made / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        _put(made, order.output)
        return manifest
    finally:
        shutil.rmtree(scratch)


def _make(order: ImageOrder, kernel: Kernel, made: Path) -> dict[str, Any]:
    image = kernel.image.read_bytes()
    (made / "kernel").write_bytes(unwrapped(image) or image)
    root = GuestRoot()
    programs = {name: root.program(name) for name in ("crun", "busybox")}
    root.python(AGENT_MODULES)
    early = kernel.closure(ROOT_MODULES, needed=True)
    known = {name for name, _ in early}
    later = kernel.closure((*LATER_MODULES, *order.modules), needed=True)
    later += kernel.closure(OPTIONAL_MODULES, needed=False)
    for name, data in later:
        if name not in known:
            root.tree.file(f"{MODULES_ROOT}/{name}.ko", data)
    wanted = [name for name, _ in kernel.closure(order.modules, needed=True)]
    root.tree.file(f"{MODULES_ROOT}/{WANTED}", "\n".join(wanted).encode())
    with (made / "guest.erofs").open("wb") as target:
        write_erofs(root.tree, target, order.moment)
    (made / "initrd").write_bytes(initrd(programs["busybox"], early, order.moment))
    return {
        "format": FORMAT,
        "crib": __version__,
        "kernel": kernel.version,
        "kernel_arguments": list(KERNEL_ARGUMENTS),
        "python": root.versions["python"],
        "crun": _crun_version(programs["crun"]),
        "packages": _packages(root),
        "files": {path.name: _described(path) for path in sorted(made.iterdir())},
    }


def _crun_version(program: Path) -> str:
    said = run_program([str(program), "--version"]).split()
    return said[2].decode() if len(said) > 2 else ""


def _packages(root: GuestRoot) -> list[str]:
    return packages_of({path for _, _, path in root.tree.entries() if isinstance(path, Path)})


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _put(made: Path, output: Path) -> None:
    """`made` becomes `output`; a running VM keeps the files that it has open."""
    for path in made.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = made.parent / "old"
    if output.exists():
        output.rename(old)
    made.rename(output)


def main(arguments: Sequence[str]) -> int:
    """The program: prints the manifest."""
    parser = argparse.ArgumentParser(
        prog="python -m crib.vm.build", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kernel", default="")
    parser.add_argument("--module", action="append", default=[])
    parser.add_argument("--moment", type=int, default=int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
    options = parser.parse_args(arguments)
    order = ImageOrder(options.output, options.kernel, tuple(options.module), options.moment)
    try:
        manifest = build(order)
    except (BuildFailed, OSError) as error:
        print(f"crib vm build: {error}", file=sys.stderr)
        return 1
    print(json.dumps(manifest, indent=2, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
