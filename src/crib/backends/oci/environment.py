"""What all parts of one OCI handler share.

Programs, paths, facts; found and checked once, when the daemon starts.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass, replace

from crib.backends.oci.argv import MonitorProgram, RuntimeProgram
from crib.backends.oci.failures import trying
from crib.host.cgroups import CgroupLayout, Cgroups, detect_layout, expand_slice
from crib.host.mounts import make_private_root
from crib.host.processes import ToolMissing, run
from crib.host.sealed import seal
from crib.model.errors import Broken, InvalidRequest
from crib.model.facts import HandlerFacts, HostFacts
from crib.model.ids import HandlerName
from crib.model.paths import Paths
from crib.model.sandbox import SandboxRecord
from crib.model.settings import HandlerSettings, Settings
from crib.wire.oci_runtime import decode_features

_log = logging.getLogger(__name__)

OCI_VERSION = "1.0.2"
"""Written in every spec.

What we use of the OCI is in it, and old runtimes refuse what says more (crun 1.8: 1.0.x).
"""
_VERSION = re.compile(r"(\d+)\.(\d+)")
_CRUN_RRO = (1, 4)
_RUNC_RRO = (1, 1)


@dataclass(frozen=True, slots=True)
class OciEnvironment:
    """Given to each part of a handler."""

    facts: HandlerFacts
    settings: Settings
    paths: Paths
    host: HostFacts
    cgroups: Cgroups
    runtime: RuntimeProgram
    monitor: MonitorProgram
    is_crun: bool = False
    """What we know of crun may be used: its state of a container is a directory of plain files."""

    def pod_cgroup(self, sandbox: SandboxRecord) -> str:
        """The cgroup that the pod's containers lie below.

        Ours unless the client names one (CRI cgroup_parent).
        """
        parent = sandbox.config.cgroup_parent
        if not parent:
            return f"{self.settings.cgroup_root.rstrip('/')}/{sandbox.id}"
        try:
            path = expand_slice(os.path.basename(parent)) if parent.endswith(".slice") else parent
        except ValueError as error:
            raise InvalidRequest(str(error), field="config.linux.cgroup_parent") from error
        path = "/" + path.strip("/")
        if path == "/" or any(part in ("", ".", "..") or "\0" in part for part in path[1:].split("/")):
            raise InvalidRequest(
                f"{parent!r} is not the path of a cgroup", field="config.linux.cgroup_parent"
            )
        return path


async def open_environment(
    name: HandlerName, settings: Settings, paths: Paths, host: HostFacts
) -> OciEnvironment:
    """Find and ask the programs and make the directories. Broken, with a hint, when a program is missing."""
    handler = settings.handlers.get(name, HandlerSettings())
    with trying(f"handler {name}"):
        program = _find(handler.path or name)
        conmon = _find(settings.conmon)
        for directory in (paths.exits, paths.sandboxes, paths.containers, paths.monitor_sockets):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        os.makedirs(paths.writable_layers, mode=0o700, exist_ok=True)
        make_private_root(paths.containers)
        runtime = RuntimeProgram(program, f"{paths.runtime_root}/{name}", handler.args)
        os.makedirs(runtime.root, mode=0o700, exist_ok=True)
        is_crun = os.path.basename(program) == "crun"
        if is_crun and not seal(program):  # runc is twenty times as large, and was not measured
            _log.info("%s cannot be run from a sealed copy: it makes one itself each time", program)
        layout = detect_layout()
        facts = await probe_handler(name, runtime)
        facts = replace(
            facts,
            monitor=conmon,
            monitor_version=(await _first_line(conmon)).rsplit(" ", 1)[-1],
            problem=hybrid_problem(facts, layout),
        )
        return OciEnvironment(
            facts=facts,
            settings=settings,
            paths=paths,
            host=host,
            cgroups=Cgroups(layout),
            runtime=runtime,
            monitor=MonitorProgram(conmon, paths.exits, paths.monitor_sockets),
            is_crun=is_crun,
        )


def hybrid_problem(facts: HandlerFacts, layout: CgroupLayout) -> str:
    """Crun takes a hybrid host only if no controller is left on its v2 side; systemd mounts them as v1."""
    if layout.mode != "hybrid" or os.path.basename(facts.program) != "crun":
        return ""
    left = sorted(layout.unified_controllers)
    if not left:
        return ""
    cures = "; ".join(
        f"mkdir -p /sys/fs/cgroup/{name} && mount -t cgroup -o {name} cgroup /sys/fs/cgroup/{name}"
        for name in left
    )
    return f"crun refuses this cgroup tree while {', '.join(left)} is on its v2 side; mount it as v1: {cures}"


def _find(program: str) -> str:
    # conmon wants a path, and a path does not change when PATH does.
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(program)
    return os.path.abspath(found)


async def _first_line(program: str) -> str:
    """Of what it says of its version: the name, and the number last."""
    said = (await run((program, "--version"), timeout=20)).stdout.decode("utf-8", "replace")
    return said.splitlines()[0] if said else ""


async def probe_handler(name: HandlerName, runtime: RuntimeProgram) -> HandlerFacts:
    """Ask the runtime what it can do: `features` where it has it, else from its version."""
    first = await _first_line(runtime.program)
    match = _VERSION.search(first)
    if match is None:
        raise Broken(
            f"handler {name}: {runtime.program} --version says {first!r}, which has no version in it"
        )
    number = (int(match[1]), int(match[2]))
    is_crun = "crun" in first
    recursive = number >= (_CRUN_RRO if is_crun else _RUNC_RRO)
    idmapped = is_crun and number >= (1, 9)
    answer = await run(runtime.features(), timeout=20)
    if answer.exit_code == 0:
        try:
            features = decode_features(answer.stdout)
        except ValueError as error:
            raise Broken(f"handler {name}: {runtime.program} features is not understood: {error}") from error
        recursive = "rro" in (features.mount_options or ())
        extensions = features.linux.mount_extensions if features.linux is not None else None
        idmapped = extensions is not None and extensions.idmap.enabled
    return HandlerFacts(
        name=name,
        program=runtime.program,
        version=first.rsplit(" ", 1)[-1],
        oci_version=OCI_VERSION,
        recursive_read_only=recursive,
        user_namespaces=False,
        idmapped_mounts=idmapped,
    )
