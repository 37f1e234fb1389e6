"""What a kubelet varies from try to try is the same request; anything else is not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from crib.engine.identity import container_differences, differing_fields, sandbox_differences
from crib.model.container import ContainerConfig, ContainerSecurity, ContainerState, Device, Mount
from crib.model.errors import AlreadyExists, Broken
from crib.model.sandbox import ProcessIdentity, Resources
from tests.contract.records_samples import full_container, full_sandbox
from tests.fakes.world import World, bounded, container_config, pod_config, turns, until

TERMINATION = "io.kubernetes.container.terminationMessagePath"
DIRECTORY = "/var/lib/kubelet/pods/0000-uid/containers/app"


def kubelet_try(number: int) -> ContainerConfig:
    """A config as a kubelet makes it for its try of that number: maps and sets come in another order."""
    turn = -1 if number % 2 else 1
    mounts = (
        Mount(container_path="/data", host_path="/var/lib/kubelet/pods/0000-uid/volumes/data"),
        Mount(container_path="/plugin", host_path="/opt/plugin", readonly=True),
    )
    message = Mount(container_path="/dev/termination-log", host_path=f"{DIRECTORY}/{0xA0B0C0D0 + number:08x}")
    return replace(
        container_config(),
        envs=(("A", b"1"), ("B", b"2"), ("KUBERNETES_PORT", b"tcp://10.0.0.1:443"))[::turn],
        mounts=(*mounts[::turn], message),
        devices=(Device("/dev/one", "/dev/null", "rw"), Device("/dev/two", "/dev/zero", "rw"))[::turn],
        cdi_devices=("example.com/gpu=0", "example.com/gpu=1")[::turn],
        security=ContainerSecurity(supplemental_groups=(1, 2, 3)[::turn]),
        annotations={TERMINATION: "/dev/termination-log"},
    )


def test_a_kubelets_second_try_asks_for_the_same_container() -> None:
    assert kubelet_try(1) != kubelet_try(2)
    assert container_differences(kubelet_try(1), kubelet_try(2)) == ()


def _message_mount(config: ContainerConfig, **changes: Any) -> ContainerConfig:
    *others, message = config.mounts
    return replace(config, mounts=(*others, replace(message, **changes)))


@pytest.mark.parametrize(
    ("other", "fields"),
    [
        (replace(kubelet_try(2), image="docker.io/library/busybox:other"), ("image",)),
        (replace(kubelet_try(2), command=("true",)), ("command",)),
        (replace(kubelet_try(2), args=("sleep", "61")), ("args",)),
        (replace(kubelet_try(2), envs=(("A", b"1"), ("B", b"other"))), ("envs",)),
        (replace(kubelet_try(2), mounts=kubelet_try(2).mounts[1:]), ("mounts",)),
        (replace(kubelet_try(2), devices=()), ("devices",)),
        (replace(kubelet_try(2), resources=Resources(cpu_shares=2)), ("resources.cpu_shares",)),
        (replace(kubelet_try(2), annotations={**kubelet_try(2).annotations, "a": "b"}), ("annotations",)),
        (
            replace(kubelet_try(2), security=ContainerSecurity(supplemental_groups=(1, 2))),
            ("security.supplemental_groups",),
        ),
        # Only the name of the kubelet's own file is random.
        (_message_mount(kubelet_try(2), host_path=f"{DIRECTORY}-other/0a0b0c0d"), ("mounts",)),
        (_message_mount(kubelet_try(2), host_path="/etc/deadbeef"), ("mounts",)),
        (_message_mount(kubelet_try(2), host_path=f"{DIRECTORY}/passwd"), ("mounts",)),
        (_message_mount(kubelet_try(2), container_path="/elsewhere"), ("mounts",)),
    ],
)
def test_another_container_is_told_by_its_fields(other: ContainerConfig, fields: tuple[str, ...]) -> None:
    assert container_differences(kubelet_try(1), other) == fields


def test_a_mount_of_random_name_elsewhere_is_a_volume_like_any_other() -> None:
    one = replace(container_config(), mounts=(Mount(container_path="/m", host_path=f"{DIRECTORY}/00000001"),))
    two = replace(container_config(), mounts=(Mount(container_path="/m", host_path=f"{DIRECTORY}/00000002"),))
    assert container_differences(one, two) == ("mounts",)


def test_when_a_kubelet_first_saw_a_pod_makes_no_other_sandbox() -> None:
    one, two = (
        replace(
            pod_config(), annotations={"kubernetes.io/config.seen": seen, "kubernetes.io/config.hash": "x"}
        )
        for seen in ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
    )
    assert sandbox_differences(one, two) == ()
    assert sandbox_differences(one, replace(two, annotations={})) == ("annotations",)


async def test_a_kubelets_second_try_joins_the_first_and_a_third_gets_its_id(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    first = asyncio.ensure_future(world.node.containers.create(pod, kubelet_try(1)))
    async with bounded():
        await hold.reached.wait()
        first.cancel()
        second = asyncio.ensure_future(world.node.containers.create(pod, kubelet_try(2)))
        await turns()
        hold.release.set()
        container = await second
        assert await world.node.containers.create(pod, kubelet_try(3)) == container
    assert world.handler.failpoints.count("create") == 1
    assert set(world.records.containers) == {container}
    assert world.node.containers.get(container).config.mounts == kubelet_try(1).mounts


async def test_the_next_attempt_ends_the_create_that_its_kubelet_gave_up(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    first = asyncio.ensure_future(world.node.containers.create(pod, kubelet_try(1)))
    async with bounded():
        await hold.reached.wait()
        first.cancel()
        await turns()
        hold.release.set()
        container = await world.node.containers.create(pod, replace(kubelet_try(2), attempt=1))
        await until(lambda: set(world.records.containers) == {container})
    assert set(world.handler.host.containers) == {container}


async def test_the_next_attempt_removes_what_was_made_for_a_caller_that_had_gone(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    first = asyncio.ensure_future(world.node.containers.create(pod, kubelet_try(1)))
    async with bounded():
        await hold.reached.wait()
        first.cancel()
        hold.release.set()
        await until(lambda: [row.state for row in world.node.containers.list()] == [ContainerState.CREATED])
        second = await world.node.containers.create(pod, replace(kubelet_try(2), attempt=1))
        await until(lambda: set(world.records.containers) == {second})
        third = await world.node.containers.create(pod, replace(kubelet_try(3), attempt=2))
    assert set(world.handler.host.containers) == {second, third}, "the second's caller knows its id"


async def test_the_next_attempt_leaves_a_create_alone_that_somebody_waits_for(world: World) -> None:
    pod = await world.pod()
    await world.pulled()
    hold = world.handler.failpoints.hold("create")
    first = asyncio.ensure_future(world.node.containers.create(pod, kubelet_try(1)))
    async with bounded():
        await hold.reached.wait()
        second = asyncio.ensure_future(world.node.containers.create(pod, replace(kubelet_try(2), attempt=1)))
        await turns()
        hold.release.set()
        assert set(world.records.containers) == {await first, await second}


async def test_a_restarted_kubelets_try_for_a_static_pod_joins_the_one_under_way(world: World) -> None:
    hold = world.handler.failpoints.hold("prepare_pod")
    first, second = (replace(pod_config(), annotations={"kubernetes.io/config.seen": at}) for at in "12")
    running = asyncio.ensure_future(world.node.sandboxes.run(first, ""))
    async with bounded():
        await hold.reached.wait()
        again = asyncio.ensure_future(world.node.sandboxes.run(second, ""))
        await turns()
        hold.release.set()
        assert await running == await again


async def test_a_failed_try_whose_teardown_failed_does_not_hold_its_name_against_another_config(
    world: World,
) -> None:
    pod = await world.pod()
    world.handler.failpoints.set("create_late=1*error(no user app in image)")
    world.handler.failpoints.set("delete=1*error(mount busy)")
    with pytest.raises(Broken, match="no user app"):
        await world.created(pod)
    container = await world.created(pod, "app", "sleep", "61")
    assert set(world.records.containers) == {container}


async def test_a_sandbox_that_failed_does_not_hold_its_name_against_another_config(world: World) -> None:
    world.networks.failpoints.set("attach=1*error(no address)")
    world.handler.failpoints.set("remove_pod=1*error(still busy)")
    with pytest.raises(Broken, match="no address"):
        await world.pod()
    async with bounded():
        pod = await world.node.sandboxes.run(pod_config(hostname="other"), "")
    assert set(world.records.sandboxes) == {pod}


async def test_a_different_container_is_refused_until_the_first_is_removed(world: World) -> None:
    pod = await world.pod()
    first = await world.created(pod)
    with pytest.raises(AlreadyExists, match="different args"):
        await world.created(pod, "app", "sleep", "61")
    await world.node.containers.remove(first)
    assert await world.created(pod, "app", "sleep", "61") != first


def test_differences_are_named_by_their_path() -> None:
    one = full_sandbox()
    other = replace(
        one,
        config=replace(one.config, hostname="x", metadata=replace(one.config.metadata, attempt=9)),
        infra=ProcessIdentity(1, 2),
        network=None,
    )
    assert differing_fields(one, one) == ()
    assert differing_fields(one, other) == (
        "config.metadata.attempt",
        "config.hostname",
        "network",
        "infra.pid",
        "infra.start_time",
    )
    assert differing_fields(one, full_container()) == ("",)
