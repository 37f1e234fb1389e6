"""What an OCI runtime says that it can do, whoever runs it."""

from __future__ import annotations

import os
import re
import shutil

from crib.host.cgroups import CgroupLayout
from crib.host.processes import ToolMissing, run
from crib.model.errors import Broken
from crib.model.facts import NEW_FIELDS, HandlerFacts
from crib.model.ids import HandlerName
from crib.wire.oci_features import decode_features, known_fields, makes_checkpoints

OCI_VERSION = "1.0.2"
"""Written in every spec.

What we use of the OCI is in it, and old runtimes refuse what says more (crun 1.8: 1.0.x).
"""
_VERSION = re.compile(r"(\d+)\.(\d+)")
_RECURSIVE = {"crun": (1, 4), "runc": (1, 1)}
"""First versions with recursively read-only mounts, of those that had them before `features` listed them."""
_CRUN_RECURSIVE = (1, 9)
_USERNS = {"crun": (1, 8), "runc": (1, 1)}
"""Since when they are known to join a user namespace that is there, of those without `features`."""


def find_program(program: str) -> str:
    """Its path, which does not change when PATH does; conmon wants one. ToolMissing."""
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(program)
    return os.path.abspath(found)


async def first_line(program: str) -> str:
    """Of what it says of its version: the name, and the number last."""
    said = (await run((program, "--version"), timeout=20)).stdout.decode("utf-8", "replace")
    return said.splitlines()[0] if said else ""


def kind_of(first: str) -> str:
    """Which runtime says this of itself, under whatever name it was installed."""
    return first.partition(" ")[0]


async def probe_handler(
    name: HandlerName, program: str, features: tuple[str, ...], first: str
) -> HandlerFacts:
    """Ask the runtime what it can do: `features` where it has it, else from its version."""
    match = _VERSION.search(first)
    if match is None:
        raise Broken(f"handler {name}: {program} --version says {first!r}, which has no version in it")
    number = (int(match[1]), int(match[2]))
    kind = kind_of(first)
    recursive = kind in _RECURSIVE and number >= _RECURSIVE[kind]
    userns = kind in _USERNS and number >= _USERNS[kind]
    idmapped = kind == "crun" and number >= (1, 9)
    unknown, checkpoints = NEW_FIELDS, False
    answer = await run(features, timeout=20)
    if answer.exit_code == 0:
        try:
            found = decode_features(answer.stdout)
        except ValueError as error:
            raise Broken(f"handler {name}: {program} features is not understood: {error}") from error
        recursive = "rro" in (found.mount_options or ())
        userns = found.linux is not None and "user" in (found.linux.namespaces or ())
        extensions = found.linux.mount_extensions if found.linux is not None else None
        idmapped = extensions is not None and extensions.idmap.enabled
        unknown, checkpoints = NEW_FIELDS - known_fields(found), makes_checkpoints(found)
    return HandlerFacts(
        name=name,
        program=program,
        version=first.rsplit(" ", 1)[-1],
        oci_version=OCI_VERSION,
        recursive_read_only=recursive,
        user_namespaces=userns,
        recursive_binds=kind != "crun" or number >= _CRUN_RECURSIVE,
        idmapped_mounts=idmapped,
        unknown_fields=unknown,
        checkpoint_problem="" if checkpoints else f"{program} was built without support for criu",
    )


def hybrid_problem(layout: CgroupLayout) -> str:
    """Crun takes a hybrid host only if no controller is left on its v2 side; systemd mounts them as v1."""
    if layout.mode != "hybrid":
        return ""
    left = sorted(layout.unified_controllers)
    if not left:
        return ""
    cures = "; ".join(
        f"mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} cgroup /sys/fs/cgroup/{name}"
        for name in left
    )
    return f"crun refuses this cgroup tree while {', '.join(left)} is on its v2 side; mount it as v1: {cures}"
