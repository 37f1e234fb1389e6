"""Pods on a host without any runtime program: what another kind of handler may build on."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from crib.backends.environment import HandlerEnvironment
from crib.backends.pods.pods import Pods
from crib.host.cgroups import Cgroups, detect_layout
from crib.host.mount_table import is_mountpoint
from crib.host.mounts import unmount_tree
from crib.model.facts import HandlerFacts
from crib.model.ids import HandlerName, SandboxId, new_sandbox_id
from crib.model.paths import Paths
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    PodMetadata,
    PodSecurity,
    ProcessIdentity,
    SandboxConfig,
    SandboxRecord,
    SandboxState,
)
from crib.model.settings import Settings
from crib.ocispec.infra import InfraInputs
from crib.ports.clocks import StageTimer
from tests.system.labs.oci_setup import STAGE, host_facts

pytestmark = pytest.mark.root


@dataclass
class NoInfra:
    """See InfraProcesses: of pods that share their pids somewhere else."""

    asked: list[SandboxId] = field(default_factory=list)

    async def start(self, sandbox: SandboxId, inputs: InfraInputs, _stage: StageTimer) -> ProcessIdentity:
        raise AssertionError("no pod here shares its pids")

    def exists(self, sandbox: SandboxId) -> bool:
        self.asked.append(sandbox)
        return False

    async def end(self, sandbox: SandboxId) -> None:
        raise AssertionError("there is none")

    def forget(self, sandbox: SandboxId) -> None:
        raise AssertionError("there is none")


@pytest.fixture
async def environment(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HandlerEnvironment]:
    top = tempfile.mkdtemp(prefix="crib-pods-")
    monkeypatch.setenv("PATH", "/nosuch")
    paths = Paths(f"{top}/data", f"{top}/run")
    os.makedirs(paths.sandboxes)
    made = HandlerEnvironment(
        facts=HandlerFacts("vm", "", "1", "1.0.2", False, False, False, kind="vm"),
        settings=Settings(
            data=paths.data, state=paths.state, cgroup_root=f"/crib-test-{os.path.basename(top)}"
        ),
        paths=paths,
        host=host_facts(),
        cgroups=Cgroups(detect_layout()),
    )
    try:
        yield made
    finally:
        await made.cgroups.remove(made.settings.cgroup_root)
        unmount_tree(top)
        shutil.rmtree(top)


async def test_a_pod_is_made_and_taken_away_without_a_runtime(environment: HandlerEnvironment) -> None:
    infra = NoInfra()
    pods = Pods(environment, infra)
    own = NamespaceOptions(NamespaceMode.POD, NamespaceMode.CONTAINER, NamespaceMode.POD)
    record = SandboxRecord(
        id=new_sandbox_id(),
        config=SandboxConfig(
            metadata=PodMetadata("pod", "uid", "default"),
            hostname="alone",
            security=PodSecurity(namespaces=own),
        ),
        handler=HandlerName("vm"),
        state=SandboxState.CREATING,
        created_at=time.time_ns(),
        boot_id="",
    )
    paths, cgroup = environment.paths, pods.cgroup(record)
    await pods.prepare(record, STAGE)
    assert await pods.alive(record)
    assert is_mountpoint(paths.namespace(record.id, "net"))
    assert is_mountpoint(paths.shm(record.id))
    assert environment.cgroups.exists(cgroup)
    await pods.stop(record)
    assert infra.asked == [record.id]
    assert not await pods.alive(record)
    await pods.remove(record)
    assert os.listdir(paths.sandboxes) == []
    assert not environment.cgroups.exists(cgroup)
