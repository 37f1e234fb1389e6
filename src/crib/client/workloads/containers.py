"""One container of a pod: made and started from its plan, once or again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from crib.client import pods as client_pods
from crib.client.errors import ClientError
from crib.client.resizing import next_attempt
from crib.client.workloads.sub_paths import bind_sub_paths
from crib.manifest.late import filled, waits_for_address
from crib.stubs.runtime.v1.api_pb2 import ContainerConfig

if TYPE_CHECKING:
    from crib.client.connection import Connection
    from crib.client.pods import Pod
    from crib.manifest.plan import ContainerPlan

RESTART_COUNT = "io.kubernetes.container.restartCount"
"""The annotation under which a kubelet keeps how often a container was started before."""


async def start_container(connection: Connection, pod: Pod, plan: ContainerPlan, attempt: int = 0) -> str:
    """Make the container and start it; its id. ClientError, which names the container."""
    if waits_for_address(plan):
        plan = filled(plan, await client_pods.addresses(connection, pod.id))
    await asyncio.to_thread(bind_sub_paths, plan)
    try:
        async with next_attempt(connection, pod.id, plan.config) if attempt else contextlib.nullcontext():
            container_id = await client_pods.create_container(connection, pod, config_of(plan, attempt))
        await client_pods.start_container(connection, container_id)
    except ClientError as error:
        error.args = (f"container {plan.name}: {error.message}",)
        raise
    return container_id


def config_of(plan: ContainerPlan, attempt: int) -> ContainerConfig:
    """What the runtime is asked for; each attempt has a log of its own."""
    config = ContainerConfig()
    config.CopyFrom(plan.config)
    config.metadata.attempt = attempt
    config.annotations[RESTART_COUNT] = str(attempt)
    config.log_path = f"{plan.name}/{attempt}.log"
    return config
