"""Pods that lose their namespaces or their infra process while nobody calls."""

from __future__ import annotations

import pytest

from crib.engine import losses
from crib.engine.losses import LOST
from crib.model.container import ContainerState
from crib.model.errors import Broken, WrongState
from crib.model.events import EventType
from crib.model.sandbox import SandboxRecord, SandboxState
from tests.fakes.world import World, next_events, until


async def test_a_pod_that_is_lost_is_not_ready_at_once_and_subscribers_are_told(world: World) -> None:
    pod, other = await world.pod("lost"), await world.pod("whole")
    container = await world.running(pod)
    subscription = world.node.events.subscribe()
    world.handler.host.lose(pod)
    (event,) = await next_events(subscription, 1)
    assert (event.type, event.container_id) == (EventType.STOPPED, pod)
    record = world.node.sandboxes.get(pod)
    assert (record.state, record.reason) == (SandboxState.NOT_READY, LOST)
    assert world.node.sandboxes.get(other).state is SandboxState.READY
    assert world.node.containers.get(container).state is ContainerState.RUNNING
    with pytest.raises(WrongState, match="not-ready"):
        await world.created(pod, "another")


async def test_a_pod_that_is_stopped_or_removed_is_not_lost(world: World) -> None:
    stopped, removed = await world.pod("stopped"), await world.pod("removed")
    await world.node.sandboxes.stop(stopped)
    await world.node.sandboxes.remove(removed)
    witness = await world.pod("witness")
    world.handler.host.lose(witness)
    await until(lambda: world.node.sandboxes.get(witness).reason == LOST)
    assert world.node.sandboxes.get(stopped).reason == ""


@pytest.mark.parametrize("error", [Broken("no descriptor left"), ZeroDivisionError("a bug")])
async def test_a_watch_that_fails_begins_again(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    alive, looks = world.handler.pods.alive, 0

    async def pod_alive(record: SandboxRecord) -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise error
        return await alive(record)

    monkeypatch.setattr(losses, "RETRY_AFTER", 0.0)
    pod = await world.pod()
    monkeypatch.setattr(world.handler.pods, "alive", pod_alive)
    world.handler.host.lose(pod)
    await until(lambda: world.node.sandboxes.get(pod).reason == LOST)
