"""What all parts of one handler of the kind `vm` share; found and checked once, when the daemon starts."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, replace

import msgspec

from crib.backends.environment import HandlerOpening
from crib.backends.failures import trying
from crib.backends.handler_notes import write_handler_note
from crib.backends.pods.namespaces import pod_sysctls
from crib.backends.pods.opening import open_node
from crib.backends.runtime_probe import OCI_VERSION
from crib.backends.shim.bootstrap import ShimProgram
from crib.backends.shim.environment import ShimEnvironment
from crib.backends.shim.options import generic_options
from crib.backends.vm.machine import MachineParts, find_machine
from crib.backends.vm.sizes import MachineSize, machine_overhead, machine_size
from crib.host.cgroups import Cgroups, detect_layout
from crib.model.errors import Broken
from crib.model.facts import NEW_FIELDS, HandlerFacts, HostFacts
from crib.model.ids import SandboxId
from crib.model.sandbox import NamespaceMode, Resources
from crib.model.shim_settings import OptionValue
from crib.model.vm_settings import MIB
from crib.ocispec.infra import InfraInputs, infra_spec
from crib.vm.shim.options import CPUS, MEMORY, SHARED_PID, SHM
from crib.wire import oci_runtime as oci

SHIM = ("-I", "-m", "crib.vm.shim")
"""Our shim, as a module of the interpreter that runs the daemon."""
_CONTROLLERS = ("cpu", "io", "memory", "pids")
"""Of cgroup v2 in a guest."""


@dataclass(slots=True, kw_only=True)
class VmEnvironment(ShimEnvironment):
    """With what machines are made of."""

    machine: MachineParts | None = None
    """None where it could not be found: nothing is made then."""

    @property
    def programs(self) -> tuple[str, ...]:
        found = self.machine
        if found is None:
            return (self.program.path,)
        return (self.program.path, found.qemu, found.virtiofsd, found.mke2fs)

    @property
    def sandbox_service(self) -> str:
        return "always"

    @property
    def inner_host(self) -> HostFacts:
        """The guest's kernel: no security module, cgroup v2 whatever the host has."""
        kernel = self.machine.guest.kernel if self.machine is not None else ""
        return replace(
            self.host,
            kernel=kernel,
            cgroup_layout="v2",
            cgroup_controllers=_CONTROLLERS,
            cgroup_delegation=False,
            apparmor=False,
            selinux=False,
            idmapped_mounts=False,
            swap_accounting=False,
        )

    @property
    def own_overhead(self) -> Resources:
        """What the machine takes, and those that run it."""
        return machine_overhead(self.options.vm)

    def size(self, resources: Resources | None) -> MachineSize:
        """Of a new machine for a pod with these resources."""
        return machine_size(resources, self.options.vm, os.cpu_count() or 1)

    def made_size(self, sandbox: SandboxId) -> MachineSize:
        """Of the pod's machine, as it was made. Blocks."""
        try:
            with open(f"{self.paths.infra(sandbox)}/config.json", "rb") as file:
                notes = json.load(file)["annotations"]
            return MachineSize(int(notes[MEMORY]), int(notes[CPUS]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Broken(f"the size of the machine of sandbox {sandbox} is not known: {error}") from error

    def pod_spec(self, inputs: InfraInputs) -> oci.Spec:
        """With what the machine is given of the pod."""
        config = inputs.config
        size = self.size(config.resources)
        sysctls = pod_sysctls(config, self.options.containers.sysctls)
        notes = {
            MEMORY: str(size.memory),
            CPUS: str(size.cpus),
            SHARED_PID: "true" if config.shares_pid else "false",
        }
        if config.security.namespaces.ipc != NamespaceMode.NODE:
            notes[SHM] = self.paths.shm(SandboxId(inputs.sandbox))
        spec = infra_spec(inputs)
        return msgspec.structs.replace(
            spec,
            annotations={**spec.annotations, **notes},
            linux=msgspec.structs.replace(
                spec.linux, sysctl={path.translate(_DOTS): value for path, value in sysctls.items()}
            ),
        )


_DOTS = str.maketrans("/.", "./")
"""Of a path below /proc/sys, as the OCI's sysctl has it."""


def closed_environment(opening: HandlerOpening, problem: str) -> VmEnvironment:
    """Of a handler that could not be opened: enough to stop and remove what it made before."""
    return _environment(opening, None, replace(_facts(opening, None), problem=problem))


async def open_environment(opening: HandlerOpening) -> VmEnvironment:
    """Find what machines are made of. Broken, with a hint, when something is missing."""
    if opening.retired:
        closed = closed_environment(
            opening, "it is no longer configured, and looks only after what it has made"
        )
        closed.facts = replace(closed.facts, retired=True)
        return closed
    with trying(f"handler {opening.name}"):
        machine = await find_machine(opening.options.vm, opening.paths, opening.host.architecture)
        node = await open_node(opening)
        made = _environment(opening, machine, _facts(opening, machine))
        write_handler_note(opening.paths, opening.name, opening.options)
        made.facts = replace(made.facts, systemd=node.systemd)
        made.base_spec, made.default_seccomp = node.base_spec, node.default_seccomp
        return made


def _facts(opening: HandlerOpening, machine: MachineParts | None) -> HandlerFacts:
    """What a pod's machine can do hangs on no program: how pods are stopped and removed does on the facts."""
    facts = HandlerFacts(
        name=opening.name,
        program=machine.qemu if machine else "",
        version=machine.qemu_version if machine else "",
        oci_version=OCI_VERSION,
        recursive_read_only=False,
        user_namespaces=False,
        idmapped_mounts=False,
        kind=opening.options.kind,
        sandbox_container=True,
        own_kernel=True,
        forwards_ports=True,
        statistics="runtime",
        unknown_fields=NEW_FIELDS,
    )
    if machine is None:
        return facts
    return replace(
        facts,
        monitor=machine.virtiofsd,
        monitor_version=machine.virtiofsd_version,
        machine=machine.words(opening.options.vm.machine),
    )


def _environment(opening: HandlerOpening, machine: MachineParts | None, facts: HandlerFacts) -> VmEnvironment:
    paths = opening.paths
    return VmEnvironment(
        facts=facts,
        settings=opening.settings,
        paths=paths,
        host=opening.host,
        cgroups=Cgroups(detect_layout()),
        program=ShimProgram(
            path=sys.executable,
            address=f"{paths.state}/{opening.name}",
            events=paths.shim_events(opening.name),
            sockets=paths.shims,
            publisher=shutil.which("true") or "/bin/true",
            options=None if machine is None else generic_options(_shim_options(opening, machine)),
            arguments=SHIM,
        ),
        runtime_root="",
        serves_pods=True,
        machine=machine,
        others=opening.others,
    )


def _shim_options(opening: HandlerOpening, machine: MachineParts) -> dict[str, OptionValue]:
    """See crib.vm.shim.options.VmOptions; sizes of a pod are in its bundle."""
    settings = opening.options.vm
    return {
        "image": machine.guest.directory,
        "qemu": machine.qemu,
        "virtiofsd": machine.virtiofsd,
        "machine": settings.machine,
        "acceleration": machine.acceleration.name,
        "memory": (settings.memory + settings.own_memory) // MIB,
        "cpus": settings.cpus,
        "boot_time": settings.boot_timeout,
    }
