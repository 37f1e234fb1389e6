"""What a pod's containers ask for and may use together: a kubelet's rules."""

from __future__ import annotations

import pytest

from crib.manifest.pod_resources import PodAmounts, Portion, of_linux, pod_amounts
from crib.manifest.resources import Amounts, linux_resources
from crib.stubs.runtime.v1.api_pb2 import LinuxContainerResources

MIB = 1 << 20
NODE = 16 << 30
SMALL = Amounts(100, 200, 10 * MIB, 20 * MIB)
LARGE = Amounts(1000, 2000, 100 * MIB, 200 * MIB)


def together(*amounts: Amounts) -> Amounts:
    def total(name: str) -> int:
        return sum(getattr(one, name) for one in amounts)

    return Amounts(total("cpu_request"), total("cpu_limit"), total("memory_request"), total("memory_limit"))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([], Amounts()),
        ([Portion(Amounts())], Amounts()),
        ([Portion(SMALL), Portion(LARGE)], together(SMALL, LARGE)),
        ([Portion(SMALL, init=True), Portion(LARGE)], LARGE),
        ([Portion(LARGE, init=True), Portion(SMALL)], LARGE),
        (
            [
                Portion(LARGE, init=True),
                Portion(SMALL, init=True),
                Portion(SMALL),
                Portion(SMALL),
            ],
            LARGE,
        ),
        # a sidecar runs beside the init containers after it, and beside the others
        (
            [Portion(SMALL), Portion(LARGE, init=True), Portion(SMALL)],
            together(SMALL, LARGE),
        ),
        ([Portion(LARGE, init=True), Portion(SMALL), Portion(SMALL)], LARGE),
        (
            [Portion(SMALL), Portion(SMALL, init=True), Portion(LARGE)],
            together(SMALL, LARGE),
        ),
        # one without a limit leaves the pod without one; what is asked for is added up all the same
        ([Portion(SMALL), Portion(Amounts())], Amounts(100, None, 10 * MIB, None)),
        ([Portion(Amounts(), init=True), Portion(SMALL)], Amounts(100, None, 10 * MIB, None)),
        (
            [Portion(Amounts(memory_limit=7)), Portion(Amounts(7, 7, 7, 7))],
            Amounts(7, None, 7, 14),
        ),
        ([Portion(Amounts(0, 0, 0, 0)), Portion(SMALL)], Amounts(100, None, 10 * MIB, None)),
    ],
)
def test_containers_are_added_up(shares: list[Portion], expected: Amounts) -> None:
    assert pod_amounts(shares) == expected


@pytest.mark.parametrize("milli", [1, 9, 10, 99, 100, 101, 333, 1000, 1001, 12345])
def test_a_cgroups_values_stand_for_what_they_were_made_of(milli: int) -> None:
    made = linux_resources(Amounts(milli, milli, None, 5 * MIB))
    found = of_linux(made)
    assert found.memory_limit == 5 * MIB
    assert linux_resources(found) == made
    if milli >= 10:  # less is what the kernel takes at least
        assert (found.cpu_request, found.cpu_limit) == (milli, milli)


def test_no_limit_and_other_periods_are_understood() -> None:
    assert (
        of_linux(LinuxContainerResources(cpu_quota=-1, memory_limit_in_bytes=-1, cpu_shares=2)) == Amounts()
    )
    assert of_linux(LinuxContainerResources(cpu_quota=5_000, cpu_period=10_000)).cpu_limit == 500
    assert of_linux(LinuxContainerResources(cpu_quota=3_333, cpu_period=10_000)).cpu_limit == 334


def pod(own: Amounts | None, **containers: Amounts) -> PodAmounts:
    return PodAmounts(own, {name: Portion(found) for name, found in containers.items()})


def test_what_is_said_of_the_pod_counts_instead_of_the_sum() -> None:
    own = Amounts(cpu_limit=500, memory_limit=300 * MIB)
    assert pod(own, a=SMALL, b=LARGE).of_pod() == Amounts(1100, 500, 110 * MIB, 300 * MIB)
    assert pod(own, a=Amounts()).of_pod() == Amounts(500, 500, 300 * MIB, 300 * MIB)
    assert pod(Amounts(memory_request=MIB), a=SMALL).of_pod() == Amounts(100, 200, MIB, 20 * MIB)
    assert pod(None, a=SMALL).of_pod() == SMALL


def test_a_container_without_a_limit_has_the_pods() -> None:
    made = pod(Amounts(cpu_limit=500, memory_limit=300 * MIB), a=SMALL, b=Amounts()).of_container("b", NODE)
    assert (made.cpu_quota, made.memory_limit_in_bytes) == (50_000, 300 * MIB)
    assert pod(None, b=Amounts()).of_container("b", NODE).memory_limit_in_bytes == 0


def test_the_pods_own_words_decide_its_quality_of_service() -> None:
    plain = pod(None, a=SMALL, b=Amounts())
    assert 2 < plain.of_container("b", NODE).oom_score_adj < 1000
    assert pod(None, a=Amounts()).of_container("a", NODE).oom_score_adj == 1000
    same = Amounts(100, 100, NODE // 4, NODE // 4)
    assert pod(same, a=Amounts(), b=SMALL).of_container("a", NODE).oom_score_adj == -997
    # what the pod asks for beyond its containers is shared: half of a quarter for each, here
    asked = Amounts(memory_request=NODE // 4)
    assert pod(asked, a=Amounts(), b=Amounts()).of_container("a", NODE).oom_score_adj == 875
    assert pod(asked, a=Amounts(memory_request=NODE // 8), b=Amounts()).of_container("a", NODE) == (
        linux_resources(Amounts(memory_request=NODE // 8), 813)
    )
