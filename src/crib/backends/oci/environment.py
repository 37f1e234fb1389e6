"""What all parts of one OCI handler share.

Programs, paths, facts; found and checked once, when the daemon starts.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass, replace

from crib.backends.environment import HandlerEnvironment, HandlerOpening
from crib.backends.failures import trying
from crib.backends.oci.command_lines import MonitorProgram, RuntimeProgram
from crib.backends.oci.runtime_notes import noted_handlers, noted_program, write_note
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.opening import open_node
from crib.host.cgroups import CgroupLayout, Cgroups, detect_layout
from crib.host.processes import ToolMissing, run
from crib.host.sealed import seal
from crib.model.errors import Broken
from crib.model.facts import HandlerFacts
from crib.model.ids import HandlerName
from crib.wire.oci_runtime import decode_features

_log = logging.getLogger(__name__)

OCI_VERSION = "1.0.2"
"""Written in every spec.

What we use of the OCI is in it, and old runtimes refuse what says more (crun 1.8: 1.0.x).
"""
_VERSION = re.compile(r"(\d+)\.(\d+)")
_RECURSIVE = {"crun": (1, 4), "runc": (1, 1)}
"""First versions with recursively read-only mounts, of those that had them before `features` listed them."""
_WITH_FIFO = {"crun", "runc"}

_CRUN_RECURSIVE = (1, 9)
_USERNS = {"crun": (1, 8), "runc": (1, 1)}
"""Since when they are known to join a user namespace that is there, of those without `features`."""


@dataclass(slots=True, kw_only=True)
class OciEnvironment(HandlerEnvironment):
    """With the programs of this kind: the OCI runtime and the monitor."""

    runtime: RuntimeProgram
    monitor: MonitorProgram
    is_crun: bool = False
    """What we know of crun may be used: its state of a container is a directory of plain files."""
    has_fifo: bool = False
    """There is an `exec.fifo` in its state of a container until that is started."""

    def runtimes(self) -> tuple[RuntimeProgram, ...]:
        """This handler's own program, and those whose containers it looks after besides."""
        if self.others is None:
            return (self.runtime,)
        foreign = (name for name in noted_handlers(self.paths) if name != self.facts.name and self.owns(name))
        return (self.runtime, *(noted_program(self.paths, name) for name in foreign))

    def runtime_of(self, handler: str) -> RuntimeProgram:
        """The program that made what carries that handler's name."""
        if handler == self.facts.name:
            return self.runtime
        return noted_program(self.paths, handler)

    @property
    def names(self) -> CgroupNames:
        """Where cgroups are."""
        return CgroupNames.of(self.settings)


def closed_environment(opening: HandlerOpening, problem: str) -> OciEnvironment:
    """Of a handler that could not be opened: enough to stop and remove what it made before."""
    settings, paths = opening.settings, opening.paths
    runtime = noted_program(paths, opening.name)
    facts = HandlerFacts(opening.name, runtime.program, "", OCI_VERSION, False, False, False, problem=problem)
    return OciEnvironment(
        facts=replace(facts, kind=opening.options.kind),
        settings=settings,
        paths=paths,
        host=opening.host,
        cgroups=Cgroups(detect_layout()),
        runtime=runtime,
        monitor=MonitorProgram(settings.conmon, paths.exits, paths.monitor_sockets),
        others=opening.others,
    )


async def open_environment(opening: HandlerOpening) -> OciEnvironment:
    """Find and ask the programs and make the directories. Broken, with a hint, when a program is missing."""
    name, handler = opening.name, opening.options
    settings, paths, host = opening.settings, opening.paths, opening.host
    with trying(f"handler {name}"):
        program = _find(handler.path or name)
        conmon = _find(settings.conmon)
        node = await open_node(opening)
        runtime = RuntimeProgram(program, f"{paths.runtime_root}/{name}", handler.args, bool(node.systemd))
        first = await _first_line(program)
        is_crun = _kind(first) == "crun"
        if is_crun and not seal(program):  # runc is twenty times as large, and was not measured
            _log.info("%s cannot be run from a sealed copy: it makes one itself each time", program)
        layout = detect_layout()
        facts = await probe_handler(name, runtime, first)
        os.makedirs(runtime.root, mode=0o700, exist_ok=True)
        write_note(paths, name, runtime)
        facts = replace(
            facts,
            kind=handler.kind,
            systemd=node.systemd,
            monitor=conmon,
            monitor_version=(await _first_line(conmon)).rsplit(" ", 1)[-1],
            user_namespaces=facts.user_namespaces and host.idmapped_mounts,
            problem=hybrid_problem(layout) if is_crun else "",
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
            has_fifo=_kind(first) in _WITH_FIFO,
            base_spec=node.base_spec,
            default_seccomp=node.default_seccomp,
            others=opening.others,
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


def _kind(first: str) -> str:
    """Which runtime says this of itself, under whatever name it was installed."""
    return first.partition(" ")[0]


async def probe_handler(name: HandlerName, runtime: RuntimeProgram, first: str) -> HandlerFacts:
    """Ask the runtime what it can do: `features` where it has it, else from its version."""
    match = _VERSION.search(first)
    if match is None:
        raise Broken(
            f"handler {name}: {runtime.program} --version says {first!r}, which has no version in it"
        )
    number = (int(match[1]), int(match[2]))
    kind = _kind(first)
    recursive = kind in _RECURSIVE and number >= _RECURSIVE[kind]
    userns = kind in _USERNS and number >= _USERNS[kind]
    idmapped = kind == "crun" and number >= (1, 9)
    answer = await run(runtime.features(), timeout=20)
    if answer.exit_code == 0:
        try:
            features = decode_features(answer.stdout)
        except ValueError as error:
            raise Broken(f"handler {name}: {runtime.program} features is not understood: {error}") from error
        recursive = "rro" in (features.mount_options or ())
        userns = features.linux is not None and "user" in (features.linux.namespaces or ())
        extensions = features.linux.mount_extensions if features.linux is not None else None
        idmapped = extensions is not None and extensions.idmap.enabled
    return HandlerFacts(
        name=name,
        program=runtime.program,
        version=first.rsplit(" ", 1)[-1],
        oci_version=OCI_VERSION,
        recursive_read_only=recursive,
        user_namespaces=userns,
        recursive_binds=kind != "crun" or number >= _CRUN_RECURSIVE,
        idmapped_mounts=idmapped,
    )
