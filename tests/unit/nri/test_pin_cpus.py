"""The example that pins CPUs: with topologies as data, and as a plugin of a runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib import nri
from crib.nri import messages
from tests.unit.nri.lab import joined, pin


def machine(nodes: int, cores: int, threads: int) -> list[object]:
    """As the kernel numbers them: first threads of all cores, then second threads."""
    total = nodes * cores
    return [
        pin.Core(core // cores, tuple(core + total * thread for thread in range(threads)))
        for core in range(total)
    ]


MACHINES = {
    "laptop": machine(1, 4, 2),
    "two sockets": machine(2, 4, 2),
    "no threads": machine(1, 8, 1),
    "one core": machine(1, 1, 2),
    "hybrid": [pin.Core(0, (0, 1)), pin.Core(0, (2, 3)), *(pin.Core(0, (cpu,)) for cpu in range(4, 8))],
}


def resources(cpus: float, shares: int = -1, memory: int = 1 << 30, pinned: str = "") -> nri.LinuxResources:
    found = nri.LinuxResources()
    found.cpu.quota.value, found.cpu.period.value = int(cpus * 100000), 100000
    found.cpu.shares.value = int(cpus * 1024) if shares < 0 else shares
    found.memory.limit.value = memory
    found.cpu.cpus = pinned
    return found


def container(name: str, wants: nri.LinuxResources | None = None) -> nri.Container:
    return nri.Container(
        id=name, state=messages.CONTAINER_RUNNING, linux=messages.LinuxContainer(resources=wants)
    )


# lists and topologies


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_are_read_as_they_are_written(cpus: set[int]) -> None:
    assert set(pin.read_list(pin.write_list(cpus))) == cpus


def test_lists_are_as_short_as_the_kernels() -> None:
    assert pin.write_list([8, 0, 1, 2, 3, 10, 11]) == "0-3,8,10-11"
    assert pin.read_list("0-1,5\n") == (0, 1, 5)
    assert pin.read_list("\n") == ()


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_read_from_what_the_kernel_shows(name: str, tmp_path: Path) -> None:
    cores = MACHINES[name]
    cpus = {cpu: core for core in cores for cpu in core.threads}
    for cpu, core in cpus.items():
        (tmp_path / f"cpu/cpu{cpu}/topology").mkdir(parents=True)
        (tmp_path / f"cpu/cpu{cpu}/topology/thread_siblings_list").write_text(
            pin.write_list(core.threads) + "\n"
        )
    off = max(cpus) + 1
    (tmp_path / "cpu/online").write_text(pin.write_list(cpus) + "\n")
    for node in {core.node for core in cpus.values()}:
        (tmp_path / f"node/node{node}").mkdir(parents=True)
        of_node = [cpu for cpu, core in cpus.items() if core.node == node]
        (tmp_path / f"node/node{node}/cpulist").write_text(pin.write_list([*of_node, off]) + "\n")
    assert pin.read_topology(tmp_path) == sorted(cores)


def test_this_machines_topology_has_every_cpu_once() -> None:
    cpus = [cpu for core in pin.read_topology() for cpu in core.threads]
    assert len(cpus) == len(set(cpus)) > 0


# who gets what

ASKS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9)), max_size=12)


@given(st.sampled_from(sorted(MACHINES)), ASKS, st.sets(st.integers(0, 7), max_size=3))
def test_no_two_containers_have_a_core_and_something_stays_shared(
    name: str, asks: list[tuple[str, int]], reserved: set[int]
) -> None:
    pool = pin.Pool(MACHINES[name], reserved)
    owned: dict[str, set[int]] = {}
    for owner, cpus in asks:
        pool.take_back(owner)
        owned.pop(owner, None)
        given_cores = pool.give(owner, cpus) if cpus else []
        threads = [cpu for core in given_cores for cpu in core.threads]
        assert not threads or cpus <= len(threads) <= cpus + 1, "at most one thread too many"
        if threads:
            owned[owner] = set(threads)
        all_owned = [cpu for cpus in owned.values() for cpu in cpus]
        assert len(all_owned) == len(set(all_owned))
        shared = set(pin.read_list(pool.shared))
        assert shared
        assert not shared & set(all_owned)
        known = {cpu for core in MACHINES[name] for cpu in core.threads}
        assert shared | set(all_owned) == known
        assert reserved & known <= shared


def test_cores_are_of_one_node_if_they_fit_there_and_nodes_are_filled_up() -> None:
    pool = pin.Pool(MACHINES["two sockets"], (0,))
    assert {core.node for core in pool.give("a", 8)} == {1}, "node 0 has the reserved core"
    assert {core.node for core in pool.give("b", 6)} == {0}
    assert pool.give("c", 1) == []
    pool.take_back("a")
    assert len(pool.give("d", 2)) == 1
    assert {core.node for core in pool.give("e", 2)} == {1}


def test_more_than_a_node_has_is_given_of_several() -> None:
    pool = pin.Pool(MACHINES["two sockets"], (0,))
    assert {core.node for core in pool.give("a", 12)} == {0, 1}


def test_what_a_container_has_is_kept_only_if_it_is_whole_and_free() -> None:
    pool = pin.Pool(MACHINES["laptop"], ())
    assert pool.keep("a", (1, 5))
    assert not pool.keep("b", (1, 5)), "another has it"
    assert not pool.keep("b", (2,)), "half a core"
    assert not pool.keep("b", (0, 4)), "what stays shared"
    assert not pool.keep("b", ())
    assert pool.shared == "0,2-4,6-7"


@pytest.mark.parametrize(
    ("wants", "cpus"),
    [
        (resources(2), 2),
        (resources(1.5), 0),
        (resources(2, shares=100), 0),
        (resources(2, memory=0), 0),
        (nri.LinuxResources(), 0),
    ],
)
def test_only_whole_cpus_that_are_requested_in_full_count(wants: nri.LinuxResources, cpus: int) -> None:
    assert pin.whole_cpus(wants) == cpus


# the plugin


async def created(plugin: nri.NodePlugin, one: nri.Container) -> nri.NewContainerChanges:
    changes = nri.NewContainerChanges()
    await plugin.create_container(nri.PodSandbox(), one, changes)
    return changes


def cpus_of(updates: nri.ContainerUpdates) -> dict[str, str]:
    return {update.container_id: update.linux.resources.cpu.cpus for update in updates.updates}


async def test_containers_get_cores_and_give_them_back() -> None:
    plugin = pin.PinCpus(MACHINES["laptop"])
    await plugin.configure('{"reserved": "0"}')
    await plugin.synchronize([], [], nri.ContainerUpdates())
    small = await created(plugin, container("small"))
    assert small.adjust.resources.cpu.cpus == "0-7"
    assert cpus_of(small) == {}
    big = await created(plugin, container("big", resources(2)))
    assert big.adjust.resources.cpu.cpus == "1,5"
    assert not big.adjust.resources.cpu.mems
    assert cpus_of(big) == {"small": "0,2-4,6-7"}
    huge = await created(plugin, container("huge", resources(6)))
    assert huge.adjust.resources.cpu.cpus == "0,2-4,6-7", "too few are left"
    ended = nri.ContainerUpdates()
    await plugin.stop_container(nri.PodSandbox(), container("big"), ended)
    assert cpus_of(ended) == {"small": "0-7", "huge": "0-7"}
    again = nri.ContainerUpdates()
    await plugin.stop_container(nri.PodSandbox(), container("small"), again)
    assert cpus_of(again) == {}, "it had nothing of its own"


async def test_a_container_that_never_started_gives_its_cores_back_when_it_is_removed() -> None:
    plugin = pin.PinCpus(MACHINES["laptop"])
    await created(plugin, container("big", resources(6)))
    await plugin.remove_container(nri.PodSandbox(), container("big"))
    assert (await created(plugin, container("next", resources(6)))).adjust.resources.cpu.cpus == "1-3,5-7"


async def test_memory_comes_from_the_node_of_the_cores() -> None:
    plugin = pin.PinCpus(MACHINES["two sockets"])
    changes = await created(plugin, container("big", resources(8)))
    assert (changes.adjust.resources.cpu.cpus, changes.adjust.resources.cpu.mems) == ("4-7,12-15", "1")


async def test_after_a_restart_containers_keep_what_they_have() -> None:
    plugin = pin.PinCpus(MACHINES["laptop"])
    updates = nri.ContainerUpdates()
    stopped = container("stopped", resources(2, pinned="3,7"))
    stopped.state = messages.CONTAINER_STOPPED
    await plugin.synchronize(
        [],
        [
            container("kept", resources(2, pinned="2,6")),
            container("new", resources(2)),
            container("same cores", resources(2, pinned="2,6")),
            container("small", resources(0.5)),
            stopped,
        ],
        updates,
    )
    assert cpus_of(updates) == {"new": "1,5", "same cores": "3,7", "small": "0,4"}
    assert all(update.ignore_failure for update in updates.updates)


async def test_it_works_as_a_plugin_of_a_runtime(tmp_path: Path) -> None:
    async with joined(pin.PinCpus(MACHINES["laptop"]), tmp_path) as runtime:
        await runtime.synchronize([], [container("small")])
        request = messages.CreateContainerRequest(container=container("big", resources(4)))
        answer = await runtime.ask("CreateContainer", request, messages.CreateContainerResponse)
        assert answer.adjust.linux.resources.cpu.cpus == "1-2,5-6"
        assert [update.container_id for update in answer.update] == ["small"]
