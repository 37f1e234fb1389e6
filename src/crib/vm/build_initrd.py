"""The guest's initrd: what has to happen before the root can be mounted, as a script of busybox."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from crib.vm.build_tree import Tree, write_cpio

ROOT_MODULES = ("virtio_pci", "virtio_blk", "erofs")
"""Without them there is no root."""
PYTHON = "/usr/bin/python3 -I -S -E -X utf8=1"
ENTRY = "import crib.vm.guest.init as init; init.main()"

_SCRIPT = """\
#!/bin/busybox sh
# Made by crib vm build.
export PATH=/bin
mount -t devtmpfs -o mode=755,nosuid dev /dev
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
read -r began _ </proc/uptime
cd /modules
for module in {modules}; do insmod $module || echo "crib: the module $module was not taken"; done
mount -t erofs -o ro /dev/vda /root || {{ echo "crib: the root was not mounted"; poweroff -f; }}
cd /root
mount -o move /dev dev
mount -o move /proc proc
mount -o move /sys sys
exec switch_root /root {python} -c '{entry}' "$began"
echo "crib: pid 1 was not started"
poweroff -f
"""
_APPLETS = ("sh", "mount", "insmod", "poweroff", "switch_root")


def initrd(busybox: Path, modules: Sequence[tuple[str, bytes]], moment: int) -> bytes:
    """A cpio archive with busybox, these modules in this order, and the script."""
    tree = Tree()
    for name in ("dev", "proc", "sys", "root"):
        tree.directory(name)
    tree.file("bin/busybox", busybox, 0o755)
    for applet in _APPLETS:
        tree.link(f"bin/{applet}", "busybox")
    names = []
    for name, data in modules:
        tree.file(f"modules/{name}.ko", data)
        names.append(f"{name}.ko")
    script = _SCRIPT.format(modules=" ".join(names), python=PYTHON, entry=ENTRY)
    tree.file("init", script.encode(), 0o755)
    out = io.BytesIO()
    write_cpio(tree, out, moment)
    return out.getvalue()
