"""`crib vm build` and `crib vm boot`: what `python -m crib.vm.build` and `crib.vm.boot` say, for people."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from crib.cli.forms import is_table
from crib.cli.output import document, tell

if TYPE_CHECKING:
    from crib.cli.vm_options import VmBootOptions, VmBuildOptions

_MIB = 1 << 20
_MILLISECOND = 1_000_000


def build(options: VmBuildOptions) -> int:
    """Make the guest; 1 if it cannot be made, of which the program has told."""
    words = ["--output", options.destination, "--kernel", options.kernel]
    for name in options.module or ():
        words += ["--module", name]
    made = _said("crib.vm.build", words)
    if made is None:
        return 1
    if not is_table(options.output):
        document(made, options.output)
        return 0
    tell(f"{options.destination}: Linux {made['kernel']}, Python {made['python']}, crun {made['crun']}")
    for name, file in sorted(made["files"].items()):
        tell(f"  {name:<12} {file['bytes'] / _MIB:6.1f} MiB  sha256 {file['sha256']}")
    return 0


def boot(options: VmBootOptions) -> int:
    """Boot the guest once; 1 if it does not boot, of which the program has told."""
    words = ["--image", options.guest, "--machine", options.machine, "--memory", str(options.memory)]
    words += ["--cpus", str(options.cpus), "--acceleration", options.acceleration]
    found = _said("crib.vm.boot", [*words, "--limit", str(options.limit)])
    if found is None:
        return 1
    if not is_table(options.output):
        document(found, options.output)
        return 0
    how = f"{found['acceleration']} ({found['why']})" if found["why"] else found["acceleration"]
    tell(f"Linux {found['kernel']} on {found['machine']}, {how}")
    first = found["stages"][0]["began"]
    for stage in found["stages"]:
        begin, length = stage["began"] - first, stage["ended"] - stage["began"]
        tell(f"  {stage['name']:<10} {begin / _MILLISECOND:8.0f} ms  +{length / _MILLISECOND:.0f} ms")
    own, shared, touched = (found[name] / _MIB for name in ("own_memory", "shared_memory", "guest_memory"))
    tell(f"  CPU time {found['cpu_seconds']:.2f} s")
    tell(f"  memory of qemu {own:.0f} MiB own, {shared:.0f} MiB shared; of the guest {touched:.0f} MiB")
    return 0


def _said(module: str, words: list[str]) -> dict[str, Any] | None:
    """What a program of ours prints; None if it failed, and has told why."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found
