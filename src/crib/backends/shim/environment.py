"""What all parts of one handler of the kind `shim` share; found and checked once, when the daemon starts."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace

from crib.backends.environment import HandlerEnvironment, HandlerOpening
from crib.backends.failures import trying
from crib.backends.handler_notes import write_handler_note
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
from crib.backends.shim.bootstrap import ShimProgram
from crib.backends.shim.options import runtime_options
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.processes import run
from crib.model.facts import NEW_FIELDS, HandlerFacts
from crib.model.sandbox import Resources
from crib.model.shim_settings import has_own_kernel, is_runc, program_name
from crib.ocispec.infra import InfraInputs, infra_spec
from crib.wire import oci_runtime as oci

UNKNOWN_VERSION = "unknown"
_VERSION = re.compile(r"^\s*version:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_ASK_TIME = 20.0


@dataclass(slots=True, kw_only=True)
class ShimEnvironment(HandlerEnvironment):
    """With the shim's program."""

    program: ShimProgram
    runtime_root: str
    """Where the runtime keeps the states of containers, if that is known; else empty."""
    serves_pods: bool | None
    """Whether one shim serves a whole pod; None: that is to be found out."""

    @property
    def names(self) -> CgroupNames:
        """Where cgroups are."""
        return CgroupNames.of(self.settings)

    @property
    def own_overhead(self) -> Resources | None:
        """Of a kernel of the pod's own by somebody else's shim, nothing is known."""
        return None if self.facts.own_kernel else super(ShimEnvironment, self).own_overhead

    @property
    def programs(self) -> tuple[str, ...]:
        """Paths of those that must be there."""
        return self.program.path, self.facts.program

    @property
    def sandbox_service(self) -> str:
        """`always`, `never` or `detect`: see ShimSettings."""
        return self.options.shim.sandbox_service

    def pod_spec(self, inputs: InfraInputs) -> oci.Spec:
        """What the shim is told of a pod, in the bundle of the pod's own."""
        return infra_spec(inputs)


def closed_environment(opening: HandlerOpening, problem: str) -> ShimEnvironment:
    """Of a handler that could not be opened: enough to stop and remove what it made before."""
    facts = HandlerFacts(
        opening.name, _program_path(opening), "", OCI_VERSION, False, False, False, problem=problem
    )
    return _environment(opening, replace(_of_settings(opening, facts), retired=opening.retired))


async def open_environment(opening: HandlerOpening) -> ShimEnvironment:
    """Find and ask the programs and make the directories. Broken, with a hint, when a program is missing."""
    if opening.retired:
        return closed_environment(
            opening, "it is no longer configured, and looks only after what it has made"
        )
    with trying(f"handler {opening.name}"):
        program = find_program(_program_path(opening))
        node = await open_node(opening)
        made = _environment(opening, await _shim_facts(opening, program))
        made.program = replace(made.program, path=program)
        if made.runtime_root:
            os.makedirs(made.runtime_root, mode=0o700, exist_ok=True)
        write_handler_note(opening.paths, opening.name, opening.options)
        made.facts = replace(made.facts, systemd=node.systemd)
        made.base_spec, made.default_seccomp = node.base_spec, node.default_seccomp
        return made


def _environment(opening: HandlerOpening, facts: HandlerFacts) -> ShimEnvironment:
    settings, paths, shim = opening.settings, opening.paths, opening.options.shim
    runc = is_runc(shim.runtime)
    root = str(shim.options.get("Root", "")) or f"{paths.runtime_root}/{opening.name}"
    systemd = settings.cgroup_driver == "systemd"
    return ShimEnvironment(
        facts=facts,
        settings=settings,
        paths=paths,
        host=opening.host,
        cgroups=Cgroups(detect_layout()),
        program=ShimProgram(
            path=facts.program,
            address=f"{paths.state}/{opening.name}",
            events=paths.shim_events(opening.name),
            sockets=paths.shims,
            publisher=shutil.which("true") or "/bin/true",
            options=runtime_options(shim.runtime, shim.options, root=root, systemd=systemd),
        ),
        runtime_root=root if runc else "",
        serves_pods=True if runc else None,
        others=opening.others,
    )


async def _shim_facts(opening: HandlerOpening, program: str) -> HandlerFacts:
    """What the shim says of itself, and the runtime behind it, if that is known."""
    said = (await run((program, "-v"), timeout=_ASK_TIME)).stdout.decode("utf-8", "replace")
    found, shim = _VERSION.search(said), opening.options.shim
    version = found[1] if found else UNKNOWN_VERSION
    if is_runc(shim.runtime):
        runtime = find_program(str(shim.options.get("BinaryName", "runc")))
        first = await first_line(runtime)
        facts = await probe_handler(opening.name, runtime, (runtime, "features"), first)
        return replace(
            _of_settings(opening, facts),
            monitor=program,
            monitor_version=version,
            user_namespaces=facts.user_namespaces and opening.host.idmapped_mounts,
            problem=hybrid_problem(detect_layout()) if kind_of(first) == "crun" else "",
        )
    facts = HandlerFacts(opening.name, program, version, OCI_VERSION, False, False, False)
    # Nobody has told what it knows; to leave a field out quietly would be worse.
    return replace(_of_settings(opening, facts), unknown_fields=NEW_FIELDS)


def _of_settings(opening: HandlerOpening, facts: HandlerFacts) -> HandlerFacts:
    """With what needs no program: how pods are stopped and removed hangs on it, too."""
    options, runtime = opening.options, opening.options.shim.runtime
    with_container = ("always",) if is_runc(runtime) else ("always", "detect")
    own_kernel = has_own_kernel(runtime)
    return replace(
        facts,
        kind=options.kind,
        sandbox_container=options.sandbox_container in with_container,
        own_kernel=own_kernel,
        statistics="runtime" if own_kernel else "cgroup",
    )


def _program_path(opening: HandlerOpening) -> str:
    return program_name(opening.options.shim.runtime) if opening.options.shim.runtime else ""
