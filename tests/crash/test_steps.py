"""Every step of every verb: cribd, its monitors, a program or the caller ends there, and nothing is lost.

The steps are found by a life without faults: the stages of the timeline, the calls of the ports, and the
statements for SQLite. So a step that is new is tried without a word here. The ordinary suite takes some of
each verb's, the nightly one all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.crash.steered import Fault, Kubelet, Steered, Tries, running_steered, steps_of

pytestmark = [pytest.mark.root, pytest.mark.system]

STEPS = ("stage", "port", "sql")
DEADLINE = 0.3
"""Seconds that a caller has who does not wait; a verb takes less, but not where a step of it is held."""

some_or_all = pytest.mark.parametrize(
    "most", [1, pytest.param(1000, marks=pytest.mark.nightly)], ids=["some", "all"]
)


@pytest.fixture
def cribd() -> Iterator[Steered]:
    with running_steered() as daemon:
        yield daemon


def chosen(steps: Sequence[tuple[str, int]], most: int, shift: int) -> list[tuple[str, int]]:
    """At most so many, spread over all; another `shift` gives others."""
    if len(steps) <= most:
        return list(steps)
    return [steps[(shift + number * len(steps) // most) % len(steps)] for number in range(most)]


async def try_each(
    cribd: Steered, most: int, what: str, *, argument: object = None, shift: int = 0, deadline: float = 0.0
) -> Tries:
    """A life for each step before which, and after which, that happens; with few, before or after."""
    tries = Tries(cribd)
    count = 0
    for verb, steps in (await steps_of(cribd, *STEPS)).items():
        assert steps, f"{verb} has no steps"
        for point, number in chosen(steps, most, shift):
            for when in ("before", "after") if most > 1 else (("before", "after")[count % 2],):
                count += 1
                fault = Fault(point, number, when, what, argument)
                kubelet = Kubelet(cribd, shares_pid=True, deadline=deadline)
                kubelet.fault = lambda name, verb=verb, fault=fault: fault if name == verb else None
                await tries.try_life(kubelet, verb)
    return tries


@some_or_all
async def test_a_daemon_that_is_killed_at_any_step_leaves_nothing_and_the_retry_succeeds(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, "kill", shift=2)
    tries.check(least=8)


@some_or_all
async def test_a_daemon_that_is_killed_with_its_monitors_leaves_nothing_and_the_retry_succeeds(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, "kill with monitors", shift=3)
    tries.check(least=8)


@some_or_all
async def test_a_caller_that_goes_away_at_any_step_changes_nothing_for_the_next(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, "hold", shift=1)
    tries.check(least=8)


@some_or_all
async def test_a_deadline_that_expires_at_any_step_changes_nothing_for_the_next(
    cribd: Steered, most: int
) -> None:
    tries = await try_each(cribd, most, "hold", shift=1, deadline=DEADLINE)
    tries.check(least=8)


@pytest.mark.parametrize(
    ("most", "programs"),
    [
        pytest.param(1, ["crun", "conmon"], id="some"),
        pytest.param(1000, ["crun"], id="all-crun", marks=pytest.mark.nightly),
        pytest.param(1000, ["conmon"], id="all-conmon", marks=pytest.mark.nightly),
    ],
)
async def test_a_program_that_is_killed_at_any_step_leaves_nothing_and_the_retry_succeeds(
    cribd: Steered, most: int, programs: list[str]
) -> None:
    tries = await try_each(cribd, most, "kill programs", argument=programs, shift=4)
    tries.check(least=8)
