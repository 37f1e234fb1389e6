"""Infra processes as containers of the OCI runtime, without a monitor: they write nothing."""

from __future__ import annotations

import os
from dataclasses import replace

from crib.backends.failures import checked
from crib.backends.known_processes import identity, read_pid
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.runtime_notes import delete_state, forget_state, knowing
from crib.backends.oci.seccomp_cache import SeccompFilters
from crib.backends.runtime_words import runtime_words
from crib.host.processes import RunOptions, run
from crib.host.threads import OURS, Job
from crib.model.errors import Broken
from crib.model.ids import SandboxId
from crib.model.sandbox import ProcessIdentity
from crib.ocispec.infra import InfraInputs, infra_spec
from crib.ports.clocks import StageTimer
from crib.wire import oci_runtime as oci

HOST_NETWORK = "--network=host"
"""Has gVisor leave the network to the host: in a pod on the node's network there are no addresses to take."""


_MISTAKEN = "cannot run with network enabled in root network namespace"
_NEWER = "this runsc takes every network namespace of Linux 6.8 for the node's: take a newer one, or set args"


class InfraContainers:
    """See pods.InfraProcesses."""

    def __init__(self, environment: OciEnvironment, filters: SeccompFilters) -> None:
        self._env = environment
        self._paths = environment.paths
        self._filters = filters

    async def start(self, sandbox: SandboxId, inputs: InfraInputs, _stage: StageTimer) -> ProcessIdentity:
        what, runtime, profile = (
            f"infra process of sandbox {sandbox}",
            self._env.runtime,
            inputs.confinement.seccomp,
        )
        if inputs.config.host_network and self._env.facts.network_inside:
            runtime = replace(runtime, args=(*runtime.args, HOST_NETWORK))
        limit, options = self._env.settings.verb_timeout, RunOptions(owner=sandbox)
        job, bundle = self._job(sandbox), self._paths.infra(sandbox)
        pid_file = f"{bundle}/pidfile"
        spec = infra_spec(replace(inputs, seccomp_filter=self._filters.known(profile)))
        await OURS.run(job, _write_bundle, bundle, spec)
        made = await run(runtime.create(sandbox, bundle, pid_file), timeout=limit, options=options)
        checked(what, made, runtime_words)
        if self._filters.is_new(profile):
            await OURS.run(job, self._filters.learn, sandbox, profile)
        started = await run(runtime.start(sandbox), timeout=limit, options=options)
        checked(what, started, _start_words)
        found = identity(await OURS.run(job, read_pid, pid_file))
        if found is None:
            raise Broken(f"{what}: it ended at once")
        return found

    def exists(self, sandbox: SandboxId) -> bool:
        return bool(knowing(self._env.runtimes(), sandbox))

    async def end(self, sandbox: SandboxId) -> None:
        for runtime in await OURS.run(self._job(sandbox), self._knowing, sandbox):
            if runtime.stand_in:  # all of a sandbox is in its cgroup, which ends it a hundred times as fast
                continue
            await delete_state(runtime, sandbox, self._env.settings.verb_timeout)

    def forget(self, sandbox: SandboxId) -> None:
        for runtime in self._env.runtimes():
            forget_state(runtime, sandbox)

    def _job(self, sandbox: SandboxId) -> Job:
        limit = self._env.settings.verb_timeout
        return Job(f"the infra process of sandbox {sandbox}", owner=sandbox, limit=limit)

    def _knowing(self, sandbox: SandboxId) -> tuple[RuntimeProgram, ...]:
        return knowing(self._env.runtimes(), sandbox)


def _write_bundle(bundle: str, spec: oci.Spec) -> None:
    os.makedirs(bundle, mode=0o700, exist_ok=True)
    with open(f"{bundle}/config.json", "wb") as file:
        file.write(oci.encode(spec))


def _start_words(text: str) -> str:
    said = runtime_words(text)
    return f"{said} ({_NEWER} = [{HOST_NETWORK!r}])" if _MISTAKEN in said else said
