"""The table of recovery, row by row."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from crib.engine.recovery.decide import LOST, Action, Decision, decide, decide_unseen
from crib.model.container import ContainerConfig, ContainerRecord, ContainerState, Exit
from crib.model.ids import ContainerId, ImageId, SandboxId
from crib.ports.containers import Observation

NOW = 99
EXIT = Exit(ContainerId("c"), 3, 50)
LOST_NOW = Exit(ContainerId("c"), LOST, NOW, lost=True)
RECORD = ContainerRecord(
    id=ContainerId("c"),
    sandbox_id=SandboxId("s"),
    config=ContainerConfig("app", "image"),
    state=ContainerState.RUNNING,
    created_at=1,
    image_id=ImageId("i"),
    image_ref="i",
    layers=(),
)
LIVING = (ContainerState.CREATED, ContainerState.RUNNING, ContainerState.UNKNOWN)


def in_state(state: ContainerState) -> ContainerRecord:
    return replace(RECORD, state=state)


@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("state", [ContainerState.CREATING, ContainerState.REMOVING])
def test_half_made_and_half_removed_are_torn_down_whatever_the_world_says(
    state: ContainerState, same_boot: bool
) -> None:
    decision = decide_unseen(in_state(state), same_boot=same_boot, now=NOW)
    assert decision == Decision(Action.TEARDOWN)


@pytest.mark.parametrize("same_boot", [True, False])
def test_exited_stays_exited(same_boot: bool) -> None:
    decision = decide_unseen(in_state(ContainerState.EXITED), same_boot=same_boot, now=NOW)
    assert decision == Decision(Action.KEEP)


@pytest.mark.parametrize("state", LIVING)
def test_of_another_boot_nothing_is_left(state: ContainerState) -> None:
    decision = decide_unseen(in_state(state), same_boot=False, now=NOW)
    assert decision == Decision(Action.MARK_EXITED, LOST_NOW)


@pytest.mark.parametrize("state", LIVING)
def test_of_this_boot_the_world_must_be_looked_at(state: ContainerState) -> None:
    assert decide_unseen(in_state(state), same_boot=True, now=NOW) is None


@pytest.mark.parametrize(
    ("state", "status", "alive"),
    list(product(LIVING, ("created", "running", "stopped", "gone"), (True, False))),
)
def test_an_exit_file_gives_code_and_time(state: ContainerState, status: str, alive: bool) -> None:
    decision = decide(in_state(state), Observation(status, EXIT, alive), NOW)
    assert decision == Decision(Action.MARK_EXITED, EXIT)


@pytest.mark.parametrize(
    ("state", "status", "alive", "action"),
    [
        ("created", "created", True, Action.KEEP),
        ("running", "running", True, Action.KEEP),
        ("created", "running", True, Action.KEEP_RUNNING),
        ("unknown", "running", True, Action.KEEP_RUNNING),
        *((state, status, True, Action.KEEP) for state in LIVING for status in ("gone", "stopped")),
        *((state, status, False, Action.MARK_EXITED) for state in LIVING for status in ("gone", "stopped")),
        *((state, status, False, Action.KILL) for state in LIVING for status in ("created", "running")),
    ],
)
def test_without_an_exit_file_runtime_and_monitor_decide(
    state: str, status: str, alive: bool, action: Action
) -> None:
    decision = decide(in_state(ContainerState(state)), Observation(status, None, alive), NOW)
    assert decision.action is action
    assert decision.exit == (LOST_NOW if action in (Action.MARK_EXITED, Action.KILL) else None)


def test_one_that_could_not_be_looked_at_is_created_again_when_it_waits_to_be_started() -> None:
    seen = Observation("created", None, monitor_alive=True)
    assert decide(in_state(ContainerState.UNKNOWN), seen, NOW) == Decision(Action.KEEP_CREATED)


def test_an_abandoned_one_stays_as_it_is_shown() -> None:
    record = replace(in_state(ContainerState.UNKNOWN), abandoned=True)
    assert decide_unseen(record, same_boot=True, now=NOW) == Decision(Action.KEEP)
