"""Pods and containers at the handler's port: made, run to their end, read, frozen; and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from crib.engine.containers.execute import run_command
from crib.host.freezer import Freezer
from crib.host.inotify import DirectoryWatcher
from crib.host.mount_table import mounts_below
from crib.model.container import (
    ContainerConfig,
    ContainerRecord,
    ContainerSecurity,
    ExecCommand,
    Exit,
)
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    SandboxRecord,
)
from tests.system.labs.oci_setup import BOUND, PodLab

FOREVER = ("sleep", "1000")
MODIFY = 0x2  # IN_MODIFY
OWN_PIDS = NamespaceOptions(pid=NamespaceMode.CONTAINER)


def config(*command: str, **fields: object) -> ContainerConfig:
    fields.setdefault("security", ContainerSecurity(namespaces=OWN_PIDS))
    return ContainerConfig(name="main", image="busybox", command=command, **fields)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def pod(lab: PodLab, **fields: object) -> AsyncIterator[SandboxRecord]:
    """A started pod; at the end it is removed, and nothing of it may be left."""
    record = lab.sandbox(**fields)  # type: ignore[arg-type]
    try:
        yield await lab.begin(record)
    finally:
        await lab.handler.pods.remove(record)
        assert_nothing_left(lab)


@contextlib.asynccontextmanager
async def running(
    lab: PodLab, sandbox: SandboxRecord, wanted: ContainerConfig
) -> AsyncIterator[ContainerRecord]:
    record = lab.container(sandbox, wanted)
    try:
        record = await lab.create(record, sandbox)
        await lab.handler.containers.start(record)
        yield record
    finally:
        await lab.handler.containers.delete(record)


async def run_to_end(lab: PodLab, sandbox: SandboxRecord, wanted: ContainerConfig) -> tuple[Exit, str]:
    """Run a container until it ends; its exit and what it logged."""
    exits = lab.handler.containers.exits()
    async with running(lab, sandbox, wanted) as record, asyncio.timeout(BOUND):
        async for found in exits:
            if found.id == record.id:
                return found, "".join(line.split(" ", 3)[3] for line in logged(record))
    raise AssertionError("no exit")


async def output(lab: PodLab, record: ContainerRecord, *argv: str) -> str:
    result = await run_command(lab.handler.streams, record, ExecCommand(argv, timeout=BOUND))
    assert result.exit_code == 0, result
    return result.stdout.decode()


def assert_nothing_left(lab: PodLab) -> None:
    paths = lab.paths
    for directory in (
        paths.sandboxes,
        paths.containers,
        paths.writable_layers,
        paths.exits,
        paths.monitor_sockets,
    ):
        assert os.listdir(directory) == []
    # crun of Debian 13 keeps compiled filters in .cache, and removes old ones itself
    assert not os.path.isdir(lab.runtime_root) or set(os.listdir(lab.runtime_root)) <= {".cache"}
    # the root of infra processes stays from the first one on
    mounted = {entry.path for entry in mounts_below(paths.state)} - {paths.infra_root}
    assert mounted == {paths.containers}
    for directory in lab.environment.cgroups.directories(lab.environment.settings.cgroup_root):
        if os.path.isdir(directory):
            assert [entry.name for entry in os.scandir(directory) if entry.is_dir()] == []


async def until_logged(record: ContainerRecord, text: str) -> None:
    with DirectoryWatcher([os.path.dirname(record.log_path)], MODIFY) as watcher:
        async with asyncio.timeout(BOUND):
            while text not in "".join(logged(record)):
                await watcher.next_events()


def logged(record: ContainerRecord) -> list[str]:
    return Path(record.log_path).read_text().splitlines(keepends=True)


def cgroup_of(lab: PodLab, record: ContainerRecord) -> str:
    return f"{lab.environment.settings.cgroup_root}/{record.sandbox_id}/{record.id}"


@contextmanager
def frozen(lab: PodLab, record: ContainerRecord) -> Iterator[str]:
    """A container that somebody else paused; thawed again, if it is still there."""
    cgroups, path = lab.environment.cgroups, cgroup_of(lab, record)
    freezer = Freezer(cgroups.layout)
    v1 = "freezer" in cgroups.layout.controllers
    cgroups.write(path, *(("freezer.state", "FROZEN") if v1 else ("cgroup.freeze", "1")))
    assert freezer.is_frozen(path)
    try:
        yield path
    finally:
        if cgroups.exists(path):
            freezer.thaw(path)
