"""How large a pod's machine is."""

from __future__ import annotations

import pytest

from crib.backends.vm.sizes import (
    HOST_MEMORY,
    MachineSize,
    machine_overhead,
    machine_size,
    memory_for_containers,
)
from crib.model.sandbox import Resources
from crib.model.vm_settings import MIB, VmSettings

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


def test_a_machine_takes_memory_of_its_own_and_of_its_programs() -> None:
    made = machine_overhead(SETTINGS)
    assert made.memory_limit_in_bytes == 96 * MIB + HOST_MEMORY
    assert made.cpu_quota * 10 == made.cpu_period
