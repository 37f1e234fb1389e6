"""CheckpointPod and RestorePod: several containers of a pod, as they were at the same moment (KEP-5823).

A checkpoint of a pod is a directory with an archive for each container. RestorePod makes the pod anew from
its request and lets each container wait, CREATED, for the start that restores it. What a request says of a
container's image, command, working directory, user and variables is compared with the checkpoint only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from crib.engine.containers.checkpoint import Saving, able, save
from crib.engine.containers.create import CreateContainer
from crib.engine.core import Core, sandbox_key
from crib.engine.sandboxes.remove import RemoveSandbox
from crib.engine.sandboxes.run import RunSandbox
from crib.model.container import ContainerConfig
from crib.model.errors import AlreadyExists, InvalidRequest, TimedOut, WrongState, below
from crib.model.ids import ContainerId, SandboxId
from crib.model.lifecycle import SandboxVerb, move_sandbox
from crib.model.sandbox import SandboxConfig
from crib.ports.checkpoints import CheckpointSource, archive_name


class CheckpointPod:
    """The verb."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, text: str, directory: str, containers: Sequence[str], until: float) -> None:
        """Archives of these running containers go into an empty directory; `until` is on the monotonic
        clock.
        """
        core = self._core
        sandbox = core.sandbox(text)
        move_sandbox(sandbox, SandboxVerb.CHECKPOINT)
        savings: dict[ContainerId, Saving] = {}
        for position, wanted in enumerate(containers):
            record, field = core.container(wanted), f"container_ids[{position}]"
            if record.sandbox_id != sandbox.id:
                raise InvalidRequest(f"container {record.id} is of another pod", field=field)
            if record.id in savings:
                raise InvalidRequest(f"container {record.id} is named twice", field=field)
            try:
                name = archive_name(record.config.name)
            except ValueError as error:
                raise InvalidRequest(str(error), field=field) from error
            savings[record.id] = Saving(record.id, f"{directory}/{name}")
        if len({one.location for one in savings.values()}) < len(savings):
            raise InvalidRequest("two of the containers have the same name", field="container_ids")
        await able(core, sandbox.handler).check_empty(directory)
        saved = save(core, sandbox, list(savings.values()), until)
        await core.keeper.begin("checkpoint pod", saved, sandbox.id).wait()


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """What RestorePod is asked for."""

    directory: str
    config: SandboxConfig
    handler: str
    containers: tuple[ContainerConfig, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RestoredPod:
    """A pod whose containers wait for their starts, by their names."""

    id: SandboxId
    containers: tuple[tuple[str, ContainerId], ...]


class RestorePod:
    """The verb. If it fails nothing of the pod is left."""

    def __init__(self, core: Core, run: RunSandbox, create: CreateContainer, remove: RemoveSandbox) -> None:
        self._core = core
        self._run = run
        self._create = create
        self._remove = remove

    async def __call__(self, order: RestoreOrder, until: float) -> RestoredPod:
        """`until` is on the monotonic clock."""
        core = self._core
        if not core.settings.checkpoints.restore:
            raise WrongState("cannot restore a pod: the setting checkpoints.restore is off")
        handler, _ = core.handler(order.handler)
        archives = await able(core, handler).archives(order.directory)
        names = [config.name for config in order.containers]
        if len(set(names)) < len(names):
            raise InvalidRequest("two of them have the same name", field="container_configs")
        if set(names) != set(archives):
            has = ", ".join(sorted(archives)) or "none"
            raise InvalidRequest(f"must be those of the checkpoint: {has}", field="container_configs")
        if core.sandboxes.named(sandbox_key(order.config)) is not None:
            name = order.config.metadata.name
            raise AlreadyExists(f"there is a pod {name} of this uid and attempt already")
        return await core.keeper.begin("restore pod", self._restore(order, archives, until)).wait()

    async def _restore(self, order: RestoreOrder, archives: Mapping[str, str], until: float) -> RestoredPod:
        with below("config"):
            sandbox = await self._run(order.config, order.handler)
        containers = []
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0)):
                for position, config in enumerate(order.containers):
                    source = CheckpointSource(path=archives[config.name], is_compared=True)
                    with below(f"container_configs[{position}]"):
                        made = await self._create(sandbox, config, source)
                    containers.append((config.name, made))
        except BaseException as error:
            with suppress(Exception):  # the row stays and says why; the caller gets the first error
                await self._remove(sandbox)
            if isinstance(error, TimeoutError):
                raise TimedOut(f"pod {order.config.metadata.name} was not restored in time") from error
            raise
        return RestoredPod(sandbox, tuple(containers))
