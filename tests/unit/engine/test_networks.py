"""Checks, repair, garbage and removal of networks, over a fake that can be damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from crib.model.errors import NotFound, WrongState
from crib.model.ids import SandboxId
from crib.model.network import NetworkCheck, PodNetworkView
from crib.model.sandbox import DnsConfig, NetworkAttachment, SandboxState
from crib.model.settings import NetworkSettings, Settings
from crib.ports.clocks import StageTimer
from crib.ports.networks import PodNetwork
from tests.fakes.networks import NAME, FakeNetworks
from tests.fakes.settings import image_settings
from tests.fakes.world import World, bounded, pod_config, turns, until

SETTINGS = Settings(images=image_settings(pull_linger=0.0))
BRIDGE = "bridge crib0 and its rules"
NEW_ADDRESS = "10.1.0.200"


class NewAddress(FakeNetworks):
    """A repair gives another address than the pod had; what sweeps were asked is kept."""

    def __init__(self, shared: str) -> None:
        super().__init__(shared=shared)
        self.swept: list[tuple[frozenset[SandboxId], bool]] = []

    async def repair(self, pod: PodNetwork, stage: StageTimer) -> NetworkAttachment:
        return replace(await super().repair(pod, stage), addresses=(NEW_ADDRESS,))

    async def sweep(
        self, known: Collection[SandboxId], *, everything: bool = False, dry: bool = False
    ) -> Sequence[str]:
        self.swept.append((frozenset(known), everything))
        return await super().sweep(known, everything=everything, dry=dry)


class Damaged(World):
    """A world with such networks."""

    def __init__(self, settings: Settings = SETTINGS, shared: str = BRIDGE) -> None:
        super().__init__(settings)
        self.networks: NewAddress = NewAddress(shared)
        self.node = self._new_node()

    async def checked(self, *wanted: str, repair: bool = False) -> list[NetworkCheck]:
        async with bounded():
            return [found async for found in self.node.networks.check(wanted, repair=repair)]

    async def host_pod(self) -> SandboxId:
        return await self.node.sandboxes.run(pod_config("host", host_network=True), "")


@pytest.fixture
async def world() -> AsyncIterator[Damaged]:
    made = Damaged()
    await made.start()
    yield made
    await made.close()


async def test_all_ready_pods_with_a_network_of_their_own_are_checked(world: Damaged) -> None:
    one, two, stopped = await world.pod("one"), await world.pod("two"), await world.pod("stopped")
    await world.host_pod()
    await world.node.sandboxes.stop(stopped)
    world.networks.problems[two] = "eth0 is down"
    found = {check.sandbox: check for check in await world.checked()}
    assert found == {
        one: NetworkCheck(one, "default/one", ""),
        two: NetworkCheck(two, "default/two", "eth0 is down"),
    }
    assert world.networks.failpoints.count("repair") == 0


async def test_named_pods_alone_are_checked_each_once(world: Damaged) -> None:
    one, _ = await world.pod("one"), await world.pod("two")
    assert [check.sandbox for check in await world.checked(one[:12], one)] == [one]


async def test_a_pod_that_has_no_network_to_check_is_refused_before_anything_is_done(world: Damaged) -> None:
    one, stopped, host = await world.pod("one"), await world.pod("stopped"), await world.host_pod()
    await world.node.sandboxes.stop(stopped)
    for name, error, why in (
        (stopped, WrongState, "is not ready"),
        (host, WrongState, "is on the host's network"),
        ("0123456789", NotFound, "no pod sandbox"),
    ):
        with pytest.raises(error, match=why):
            await world.checked(one, name)
    assert world.networks.failpoints.count("check") == 0


async def test_a_damaged_network_is_repaired_and_its_addresses_are_on_record(
    world: Damaged, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await world.pod()
    world.networks.problems[pod] = "no default route"
    (found,) = await world.checked(repair=True)
    assert found == NetworkCheck(pod, "default/web", "no default route", repaired=True)
    assert (await world.checked(repair=True))[0].problem == ""
    assert world.networks.failpoints.count("repair") == 1
    record = world.node.sandboxes.get(pod)
    assert record.network is not None
    assert record.network.addresses == (NEW_ADDRESS,)
    assert f"pod {pod}: its addresses were 10.1.0.2 and are {NEW_ADDRESS} now" in caplog.text
    assert "RepairNetwork" in [stage.name for stage in world.node.stages(pod)]
    later = await world.restarted()
    assert later.node.sandboxes.get(pod).network == record.network


async def test_a_repair_that_fails_says_why_and_the_record_stays(world: Damaged) -> None:
    pod = await world.pod()
    before = world.node.sandboxes.get(pod)
    world.networks.problems[pod] = "eth0 is not there"
    world.networks.failpoints.set("repair=1*exhausted(no address is free)")
    (found,) = await world.checked(pod, repair=True)
    assert (found.repaired, found.repair_error) == (False, "no address is free")
    assert world.node.sandboxes.get(pod) == before


async def test_a_pod_that_cannot_be_checked_keeps_no_other_from_it(world: Damaged) -> None:
    one, two = await world.pod("one"), await world.pod("two")
    world.networks.failpoints.set("check=error(plugin hangs)", subject=one)
    world.networks.problems[two] = "torn"
    found = {check.sandbox: check for check in await world.checked(repair=True)}
    assert found[one].problem == "it cannot be checked: plugin hangs"
    assert not found[one].repaired
    assert found[two].repaired


async def test_a_stop_waits_for_a_repair_under_way(world: Damaged) -> None:
    pod = await world.pod()
    world.networks.problems[pod] = "torn"
    hold = world.networks.failpoints.hold("repair")
    work = asyncio.ensure_future(world.checked(pod, repair=True))
    async with bounded():
        await hold.reached.wait()
        stopping = asyncio.ensure_future(world.node.sandboxes.stop(pod))
        await turns()
        assert world.networks.failpoints.count("detach") == 0
        hold.release.set()
        await asyncio.gather(work, stopping)
    assert world.networks.held == {}
    assert world.node.sandboxes.get(pod).released


@pytest.mark.parametrize("named", [False, True])
async def test_a_pod_that_ends_before_its_turn_is_told_to_those_who_named_it(
    world: Damaged, named: bool
) -> None:
    one, two = await world.pod("one"), await world.pod("two")
    hold = world.networks.failpoints.hold("check")
    work = asyncio.ensure_future(world.checked(*((one, two) if named else ())))
    async with bounded():
        await hold.reached.wait()
        await world.node.sandboxes.stop(two)
        hold.release.set()
        found = {check.sandbox: check.problem for check in await work}
    assert found == ({one: "", two: "the pod has ended meanwhile"} if named else {one: ""})


async def test_a_pod_that_dies_while_it_is_repaired_stays_dead(world: Damaged) -> None:
    pod = await world.pod()
    world.networks.problems[pod] = "torn"
    hold = world.networks.failpoints.hold("repair")
    work = asyncio.ensure_future(world.checked(pod, repair=True))
    async with bounded():
        await hold.reached.wait()
        dead = replace(world.node.sandboxes.get(pod), state=SandboxState.NOT_READY, reason="dead")
        world.node._core.sandboxes.put(dead)
        hold.release.set()
        await work
    record = world.node.sandboxes.get(pod)
    assert (record.state, record.reason) == (SandboxState.NOT_READY, "dead")


async def test_a_caller_that_leaves_does_not_break_a_repair_off(world: Damaged) -> None:
    pod = await world.pod()
    world.networks.problems[pod] = "torn"
    hold = world.networks.failpoints.hold("repair")
    work = asyncio.ensure_future(world.checked(pod, repair=True))
    async with bounded():
        await hold.reached.wait()
        work.cancel()
        await asyncio.wait([work])
        hold.release.set()
        assert (await world.checked(pod))[0].problem == ""  # waits for the sandbox's lock
    record = world.node.sandboxes.get(pod)
    assert record.network is not None
    assert record.network.addresses == (NEW_ADDRESS,)


async def test_a_view_is_empty_where_there_is_no_network_of_the_pods_own(world: Damaged) -> None:
    pod, host = await world.pod(), await world.host_pod()
    get, view = world.node.sandboxes.get, world.node.networks.view
    assert (await view(get(pod))).networks == (NAME,)
    assert world.node.sandboxes.netns(get(pod)) != ""
    assert await view(get(host)) == PodNetworkView()
    assert world.node.sandboxes.netns(get(host)) == ""
    await world.node.sandboxes.stop(pod)
    assert await view(get(pod)) == PodNetworkView()
    assert world.node.sandboxes.netns(get(pod)) == ""
    assert world.networks.failpoints.count("view") == 1


async def test_networks_are_the_ports(world: Damaged) -> None:
    await world.pod()
    (network,) = await world.node.networks.list()
    assert (network.name, network.attached) == (NAME, 1)


@pytest.mark.parametrize("everything", [False, True])
async def test_garbage_is_what_no_attached_pod_has(world: Damaged, everything: bool) -> None:
    pod, stopped = await world.pod(), await world.pod("stopped")
    await world.node.sandboxes.stop(stopped)
    world.networks.held[SandboxId("gone")] = "10.1.0.99"
    assert await world.node.networks.collect(everything=everything) == ["address 10.1.0.99 of pod gone"]
    known, asked = world.networks.swept[-1]
    assert pod in known
    assert stopped not in known
    assert asked is everything


async def test_the_bridge_is_removed_once_no_pod_is_attached(world: Damaged) -> None:
    pod = await world.pod()
    await world.host_pod()
    with pytest.raises(WrongState, match=f"pods are attached \\(1\\): {pod[:13]}"):
        await world.node.networks.remove()
    assert not world.networks.dismantled
    await world.node.sandboxes.stop(pod)
    await world.node.networks.remove()
    assert world.networks.dismantled


async def test_a_pod_that_is_being_attached_keeps_the_bridge(world: Damaged) -> None:
    hold = world.networks.failpoints.hold("attach")
    running = asyncio.ensure_future(world.pod())
    async with bounded():
        await hold.reached.wait()
        with pytest.raises(WrongState, match="attached"):
            await world.node.networks.remove()
        hold.release.set()
        await running


async def test_there_is_no_bridge_to_remove_where_plugins_make_the_networks() -> None:
    world = Damaged(shared="")
    await world.start()
    with pytest.raises(WrongState, match=r"network\.mode is cni"):
        await world.node.networks.remove()
    assert not world.networks.dismantled
    await world.close()


async def test_the_networks_resolver_is_kept_for_pods_without_their_own(world: Damaged) -> None:
    world.networks.told_resolver = DnsConfig(servers=("10.1.0.1",))
    pod, host = await world.pod(), await world.host_pod()
    own = replace(pod_config("own"), dns=DnsConfig(servers=("9.9.9.9",)))
    with_own = await world.node.sandboxes.run(own, "")
    resolvers = [world.node.sandboxes.get(key).resolver for key in (pod, host, with_own)]
    assert resolvers == [DnsConfig(servers=("10.1.0.1",)), None, None]


@pytest.mark.parametrize("repair", [False, True])
async def test_the_periodic_check_finds_and_repairs_as_the_settings_say(
    repair: bool, caplog: pytest.LogCaptureFixture
) -> None:
    network = NetworkSettings(check_interval=0.001, repair=repair)
    world = Damaged(replace(SETTINGS, network=network))
    await world.start()
    async with bounded():
        bug = world.networks.failpoints.hold("check")
        world.networks.failpoints.set("check=1*bug(not a CribError)")
        pod = await world.pod()
        world.networks.problems[pod] = "eth0 is down"
        await bug.reached.wait()
        held = bug
        # It goes on after a fault of ours. A repair looks once before and once after it.
        for _ in range(5 if repair else 2):
            following = world.networks.failpoints.hold("check")
            held.release.set()
            await following.reached.wait()
            held = following
        held.release.set()
    assert world.networks.failpoints.count("repair") == int(repair)
    assert (pod in world.networks.problems) is not repair
    assert "the next one follows" in caplog.text
    assert ("network: eth0 is down" in caplog.text) is not repair
    await world.close()


async def test_a_pod_with_which_a_check_is_never_content_is_repaired_once_and_then_on_demand_only() -> None:
    network = NetworkSettings(check_interval=0.001, repair=True)
    world = Damaged(replace(SETTINGS, network=network))
    world.networks.repair = world.networks.attach  # type: ignore[method-assign]  # it mends nothing
    await world.start()
    async with bounded():
        pod = await world.pod()
        world.networks.problems[pod] = "the plugin crashed"
        for _ in range(12):
            held = world.networks.failpoints.hold("check")
            await held.reached.wait()
            held.release.set()
    assert world.networks.failpoints.count("attach") == 2  # the pod's start, and one repair
    (found,) = await world.checked(pod, repair=True)
    assert world.networks.failpoints.count("attach") == 3
    assert not found.repaired
    assert found.repair_error == "made again, but still: the plugin crashed"
    await world.close()


async def test_damage_that_comes_between_a_repair_and_the_look_after_it_is_repaired_too() -> None:
    network = NetworkSettings(check_interval=0.001, repair=True)
    world = Damaged(replace(SETTINGS, network=network))
    await world.start()
    async with bounded():
        pod = await world.pod()
        looks = [world.networks.failpoints.hold("check")]
        world.networks.problems[pod] = "the rules are gone"
        for number in range(6):
            await looks[-1].reached.wait()
            if number == 2:  # found, looked at again, repaired: this is the look after it
                assert pod not in world.networks.problems
                world.networks.problems[pod] = "eth0 is gone"
            looks.append(world.networks.failpoints.hold("check"))
            looks[-2].release.set()
        await looks[-1].reached.wait()
        looks[-1].release.set()
    assert world.networks.failpoints.count("repair") == 2
    assert pod not in world.networks.problems
    await world.close()


async def test_without_an_interval_nothing_is_checked_by_itself(world: Damaged) -> None:
    assert not [task for task in world.node.keeper._services if "networks" in task.get_name()]


async def test_bridge_and_rules_are_looked_after_without_a_kubelet_whatever_a_look_runs_into(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("crib.engine.networks.LOOK_AFTER_SECONDS", 0.0)
    world = World(SETTINGS)
    world.networks.shared = BRIDGE
    world.networks.failpoints.set("readiness=1*bug(oops)")
    await world.start()
    await until(lambda: world.networks.failpoints.count("readiness") >= 3)
    await world.close()
    assert f"{BRIDGE} could not be looked at" in caplog.text


async def test_what_status_has_looked_at_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    now = 100.0

    def monotonic() -> float:
        asked.append(now)
        return now

    monkeypatch.setattr("crib.engine.networks.LOOK_AFTER_SECONDS", 0.000001)
    monkeypatch.setattr("crib.engine.networks.time", SimpleNamespace(monotonic=monotonic))
    world = World(SETTINGS)
    world.networks.shared = BRIDGE
    await world.node.status()
    await world.start()
    await until(lambda: len(asked) > 5)
    assert world.networks.failpoints.count("readiness") == 1
    now = 200.0
    await until(lambda: world.networks.failpoints.count("readiness") > 1)
    await world.close()


async def test_plugins_are_not_asked_for_their_status_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crib.engine.networks.LOOK_AFTER_SECONDS", 0.0)
    world = World(SETTINGS)
    await world.start()
    await turns()
    await world.close()
    assert world.networks.failpoints.count("readiness") == 0
