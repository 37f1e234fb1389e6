"""What all parts of one OCI handler share.

Programs, paths, facts; found and checked once, when the daemon starts.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crib.backends.environment import HandlerEnvironment, HandlerOpening
from crib.backends.failures import trying
from crib.backends.oci.checkpoint_probe import NO_CRIU, Criu, probe_criu
from crib.backends.oci.command_lines import MonitorProgram, RuntimeProgram
from crib.backends.oci.runtime_notes import noted_handlers, noted_program, write_note
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.opening import open_node
from crib.backends.runtime_probe import (
    OCI_VERSION,
    find_program,
    first_line,
    hybrid_problem,
    kind_of,
    probe_handler,
)
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.processes import run
from crib.host.sealed import seal
from crib.model.facts import HandlerFacts
from crib.model.sandbox import Resources

_log = logging.getLogger(__name__)

_NETWORK = re.compile(r"--?network=(\w+)")
_WITH_FIFO = {"crun", "runc"}
_GVISOR = "runsc"
_GVISOR_ARGS = ("--oci-seccomp",)
"""gVisor applies the seccomp profiles of pods only if it is told to. A handler's own arguments come later."""
_NOT_INSIDE = {"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"}
"""Rights over the host's kernel, which one of the pod's own has no use for. gVisor refuses what it lacks."""
_STAND_IN = os.path.join(os.path.dirname(__file__), "stand_in.sh")


@dataclass(slots=True, kw_only=True)
class OciEnvironment(HandlerEnvironment):
    """With the programs of this kind: the OCI runtime and the monitor."""

    runtime: RuntimeProgram
    monitor: MonitorProgram
    is_crun: bool = False
    """What we know of crun may be used: its state of a container is a directory of plain files."""
    criu: Criu = NO_CRIU
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

    @property
    def own_overhead(self) -> Resources | None:
        """With a kernel of the pod's own it is that of gVisor (docs/handlers.md)."""
        if not self.facts.own_kernel:
            return super(OciEnvironment, self).own_overhead
        return Resources(cpu_period=100_000, cpu_quota=5_000, memory_limit_in_bytes=128 << 20)


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
        program = find_program(handler.path or name)
        conmon = find_program(settings.conmon)
        node = await open_node(opening)
        first = await first_line(program)
        own_kernel = kind_of(first) == _GVISOR
        stand_in = _STAND_IN if own_kernel else ""
        if own_kernel:
            held = tuple(name for name in host.capabilities if name not in _NOT_INSIDE)
            host = replace(host, capabilities=held)
        args = (*_GVISOR_ARGS, *handler.args) if own_kernel else handler.args
        root, systemd = f"{paths.runtime_root}/{name}", bool(node.systemd)
        runtime = RuntimeProgram(program, root, args, systemd, stand_in)
        is_crun = kind_of(first) == "crun"
        if is_crun and not seal(program):  # runc is twenty times as large, and was not measured
            _log.info("%s cannot be run from a sealed copy: it makes one itself each time", program)
        layout = detect_layout()
        facts = await probe_handler(name, program, runtime.features(), first)
        os.makedirs(runtime.root, mode=0o700, exist_ok=True)
        write_note(paths, name, runtime)
        facts = replace(
            facts,
            kind=handler.kind,
            sandbox_container=handler.sandbox_container == "always"
            or (handler.sandbox_container == "detect" and own_kernel),
            own_kernel=own_kernel,
            network_inside=own_kernel and has_network_inside(handler.args),
            statistics="runtime" if own_kernel else "cgroup",
            forwards_ports=own_kernel and await _forwards_ports(program),
            systemd=node.systemd,
            monitor=conmon,
            monitor_version=(await first_line(conmon)).rsplit(" ", 1)[-1],
            user_namespaces=facts.user_namespaces and host.idmapped_mounts and not own_kernel,
            problem=hybrid_problem(layout) if is_crun else "",
        )
        facts, criu = await _with_checkpoints(facts, settings.checkpoints.criu)
        return OciEnvironment(
            facts=facts,
            settings=settings,
            paths=paths,
            host=host,
            cgroups=Cgroups(layout),
            runtime=runtime,
            monitor=MonitorProgram(conmon, paths.exits, paths.monitor_sockets),
            is_crun=is_crun,
            criu=criu,
            has_fifo=own_kernel or kind_of(first) in _WITH_FIFO,
            base_spec=node.base_spec,
            default_seccomp=node.default_seccomp,
            others=opening.others,
        )


async def _with_checkpoints(facts: HandlerFacts, configured: str) -> tuple[HandlerFacts, Criu]:
    """Told of a runtime that could make them if there were a criu. gVisor has checkpoints of its own kind."""
    if facts.own_kernel:
        return replace(facts, checkpoint_problem=""), NO_CRIU
    criu = Criu(problem=facts.checkpoint_problem)
    if not criu.problem:
        criu = await probe_criu(configured)
    told = replace(facts, checkpoints=True, checkpoint_problem=criu.problem, criu=criu.version)
    return told, criu


def has_network_inside(args: Sequence[str]) -> bool:
    """Whether gVisor, with these arguments, serves the pod's addresses itself: its default."""
    found = [match[1] for match in map(_NETWORK.fullmatch, args) if match]
    return not found or found[-1] == "sandbox"


async def _forwards_ports(program: str) -> bool:
    """Whether gVisor's program connects to ports of its pods: since 2023."""
    said = await run((program, "help"), timeout=20)
    return b"port-forward" in said.stdout + said.stderr
