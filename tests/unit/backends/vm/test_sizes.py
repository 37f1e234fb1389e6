"""How large a pod's machine is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.backends.vm.sizes import (
    HOST_MEMORY,
    MachineSize,
    machine_size,
    memory_for_containers,
    with_overhead,
)
from crib.model.sandbox import Resources
from crib.model.vm_settings import MIB, VmSettings
from tests.contract.records_samples import full_sandbox

SETTINGS = VmSettings(memory=256 * MIB, own_memory=96 * MIB, cpus=2)


@pytest.mark.parametrize(
    ("resources", "size"),
    [
        (None, MachineSize(352 * MIB, 2)),
        (Resources(), MachineSize(352 * MIB, 2)),
        (Resources(memory_limit_in_bytes=-1, cpu_quota=-1), MachineSize(352 * MIB, 2)),
        (Resources(memory_limit_in_bytes=64 * MIB), MachineSize(160 * MIB, 2)),
        (Resources(memory_limit_in_bytes=64 * MIB + 1), MachineSize(161 * MIB, 2)),
        (Resources(cpu_quota=50_000), MachineSize(352 * MIB, 1)),
        (Resources(cpu_quota=100_001, cpu_period=100_000), MachineSize(352 * MIB, 2)),
        (Resources(cpu_quota=30_000, cpu_period=10_000), MachineSize(352 * MIB, 3)),
        (Resources(cpu_quota=10_000_000), MachineSize(352 * MIB, 4)),
    ],
)
def test_a_machine_has_what_its_pods_containers_may_use(
    resources: Resources | None, size: MachineSize
) -> None:
    assert machine_size(resources, SETTINGS, host_cpus=4) == size


def test_a_container_gets_at_most_what_is_not_the_guests_own() -> None:
    assert memory_for_containers(MachineSize(352 * MIB, 1), SETTINGS) == 256 * MIB


def test_what_a_machine_takes_itself_is_added_unless_the_client_has_said_it() -> None:
    config = replace(full_sandbox().config, overhead=None)
    record = replace(full_sandbox(), config=config, overhead=None)
    added = with_overhead(record, SETTINGS).overhead
    assert added == Resources(memory_limit_in_bytes=96 * MIB + HOST_MEMORY)
    told = replace(record, overhead=Resources(memory_limit_in_bytes=7))
    assert with_overhead(told, SETTINGS) is told
    told = replace(record, config=replace(config, overhead=Resources(memory_limit_in_bytes=7)))
    assert with_overhead(told, SETTINGS) is told
