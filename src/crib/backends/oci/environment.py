"""What all parts of one OCI handler share.

Programs, paths, facts; found and checked once, when the daemon starts.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crib.backends.bundle.host_resources import read_default_profile
from crib.backends.bundle.labels import Labels
from crib.backends.bundle.spec_files import read_base_spec
from crib.backends.environment import HandlerEnvironment, HandlerOpening
from crib.backends.failures import trying
from crib.backends.oci.command_lines import MonitorProgram, RuntimeProgram
from crib.backends.oci.runtime_notes import noted_handlers, noted_program, write_note
from crib.backends.pods.cgroup_names import CgroupNames
from crib.backends.pods.slices import systemd_version
from crib.host.cgroups import CgroupLayout, Cgroups, detect_layout
from crib.host.mounts import make_private_root
from crib.host.processes import ToolMissing, run
from crib.host.sealed import seal
from crib.model.errors import Broken
from crib.model.facts import NEW_FIELDS, HandlerFacts
from crib.model.ids import HandlerName
from crib.wire.oci_features import decode_features, known_fields

_log = logging.getLogger(__name__)

OCI_VERSION = "1.0.2"
"""Written in every spec.

What we use of the OCI is in it, and old runtimes refuse what says more (crun 1.8: 1.0.x).
"""
_NETWORK = re.compile(r"--?network=(\w+)")
_VERSION = re.compile(r"(\d+)\.(\d+)")
_RECURSIVE = {"crun": (1, 4), "runc": (1, 1)}
"""First versions with recursively read-only mounts, of those that had them before `features` listed them."""
_WITH_FIFO = {"crun", "runc"}
_GVISOR = "runsc"
_STAND_IN = os.path.join(os.path.dirname(__file__), "stand_in.sh")

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
    others: frozenset[str] | None = None
    """Of the default handler: those that look after themselves. It looks after what all others have made."""

    def owns(self, handler: str) -> bool:
        """Whether what that handler made is this one's to look after."""
        return handler == self.facts.name or (self.others is not None and handler not in self.others)

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
        for directory in (paths.exits, paths.sandboxes, paths.containers, paths.monitor_sockets):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        os.makedirs(paths.writable_layers, mode=0o700, exist_ok=True)
        for directory in (paths.sandboxes, paths.containers):
            # The root of a pod's user namespace passes through to its own files, and sees no others.
            os.chmod(directory, 0o711)  # noqa: S103
        make_private_root(paths.containers)
        systemd = settings.cgroup_driver == "systemd"
        version = await systemd_version() if systemd else 0
        first = await _first_line(program)
        own_kernel = _kind(first) == _GVISOR
        stand_in = _STAND_IN if own_kernel else ""
        runtime = RuntimeProgram(program, f"{paths.runtime_root}/{name}", handler.args, systemd, stand_in)
        base_spec = read_base_spec(handler.base_spec, name)
        default_seccomp = read_default_profile(handler.containers.seccomp_profile)
        is_crun = _kind(first) == "crun"
        if is_crun and not seal(program):  # runc is twenty times as large, and was not measured
            _log.info("%s cannot be run from a sealed copy: it makes one itself each time", program)
        layout = detect_layout()
        facts = await probe_handler(name, runtime, first)
        os.makedirs(runtime.root, mode=0o700, exist_ok=True)
        write_note(paths, name, runtime)
        labels = Labels(paths, host)
        labels.require_types()
        await labels.load_default_profile(None, privileged=False)
        facts = replace(
            facts,
            kind=handler.kind,
            sandbox_container=handler.sandbox_container == "always"
            or (handler.sandbox_container == "detect" and own_kernel),
            own_kernel=own_kernel,
            network_inside=own_kernel and has_network_inside(handler.args),
            statistics="runtime" if own_kernel else "cgroup",
            forwards_ports=own_kernel and await _forwards_ports(program),
            systemd=version,
            monitor=conmon,
            monitor_version=(await _first_line(conmon)).rsplit(" ", 1)[-1],
            user_namespaces=facts.user_namespaces and host.idmapped_mounts and not own_kernel,
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
            has_fifo=own_kernel or _kind(first) in _WITH_FIFO,
            base_spec=base_spec,
            default_seccomp=default_seccomp,
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


def has_network_inside(args: Sequence[str]) -> bool:
    """Whether gVisor, with these arguments, serves the pod's addresses itself: its default."""
    found = [match[1] for match in map(_NETWORK.fullmatch, args) if match]
    return not found or found[-1] == "sandbox"


def _find(program: str) -> str:
    # conmon wants a path, and a path does not change when PATH does.
    found = shutil.which(program)
    if found is None:
        raise ToolMissing(program)
    return os.path.abspath(found)


async def _forwards_ports(program: str) -> bool:
    """Whether gVisor's program connects to ports of its pods: since 2023."""
    said = await run((program, "help"), timeout=20)
    return b"port-forward" in said.stdout + said.stderr


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
    unknown = NEW_FIELDS
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
        unknown = NEW_FIELDS - known_fields(features)
    return HandlerFacts(
        name=name,
        program=runtime.program,
        version=first.rsplit(" ", 1)[-1],
        oci_version=OCI_VERSION,
        recursive_read_only=recursive,
        user_namespaces=userns,
        recursive_binds=kind != "crun" or number >= _CRUN_RECURSIVE,
        idmapped_mounts=idmapped,
        unknown_fields=unknown,
    )
