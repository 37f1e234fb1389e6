"""The tables of legal moves, and that the drawing above them tells the truth."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest

from crib.model import lifecycle
from crib.model.container import ContainerState
from crib.model.errors import WrongState
from crib.model.lifecycle import (
    CONTAINER_MOVES,
    SANDBOX_MOVES,
    ContainerVerb,
    SandboxVerb,
    is_listed,
    move_container,
    move_sandbox,
)
from crib.model.sandbox import SandboxState
from tests.contract.records_samples import full_container, full_sandbox

_STEP = re.compile(r"(\w+) ─(?=(?:(\w+)─)?► (\(gone\)|\w+))")


def drawn(noun: str) -> list[tuple[str, str, str]]:
    """The steps of a noun's drawing: state, verb, next state."""
    assert lifecycle.__doc__ is not None
    line = next(line for line in lifecycle.__doc__.splitlines() if line.strip().startswith(f"{noun} "))
    return [match.groups(default="") for match in _STEP.finditer(line)]  # type: ignore[misc]


def test_each_step_of_the_sandbox_drawing_is_in_the_table() -> None:
    steps = [step for step in drawn("sandbox") if step[2] != "(gone)"]
    assert len(steps) == 3
    for state, verb, following in steps:
        assert SANDBOX_MOVES[SandboxVerb(verb)][SandboxState[state]] is SandboxState[following]


def test_each_step_of_the_container_drawing_is_in_the_table() -> None:
    steps = [step for step in drawn("container") if step[2] != "(gone)"]
    assert len(steps) == 4
    for state, verb, following in steps:
        assert CONTAINER_MOVES[ContainerVerb(verb)][ContainerState[state]] is ContainerState[following]


@pytest.mark.parametrize(("verb", "state"), list(product(SANDBOX_MOVES, SandboxState)))
def test_a_sandbox_moves_by_the_table_only(verb: SandboxVerb, state: SandboxState) -> None:
    record = replace(full_sandbox(), state=state)
    if state in SANDBOX_MOVES[verb]:
        assert move_sandbox(record, verb) is SANDBOX_MOVES[verb][state]
        return
    with pytest.raises(WrongState, match=f"{record.id}: it is {state}"):
        move_sandbox(record, verb)


@pytest.mark.parametrize(("verb", "state"), list(product(CONTAINER_MOVES, ContainerState)))
def test_a_container_moves_by_the_table_only(verb: ContainerVerb, state: ContainerState) -> None:
    record = replace(full_container(), state=state)
    if state in CONTAINER_MOVES[verb]:
        assert move_container(record, verb) is CONTAINER_MOVES[verb][state]
        return
    with pytest.raises(WrongState, match=f"cannot {verb} container {record.id}: it is {state}"):
        move_container(record, verb)


def test_every_verb_has_its_row() -> None:
    assert set(SANDBOX_MOVES) == set(SandboxVerb)
    assert set(CONTAINER_MOVES) == set(ContainerVerb)


def test_everything_can_be_removed_and_abandoned() -> None:
    for verb in (SandboxVerb.REMOVE, SandboxVerb.ABANDON, SandboxVerb.RELEASE):
        assert set(SANDBOX_MOVES[verb]) == set(SandboxState)
    for one in (ContainerVerb.REMOVE, ContainerVerb.ABANDON):
        assert set(CONTAINER_MOVES[one]) == set(ContainerState)


def test_what_is_being_removed_is_never_as_it_was_before() -> None:
    """A removal that fails shows the row again, so that somebody asks for it once more."""
    state, box = SandboxState.REMOVING, ContainerState.REMOVING
    assert {moves.get(state, state) for moves in SANDBOX_MOVES.values()} == {state, SandboxState.NOT_READY}
    assert {moves.get(box, box) for moves in CONTAINER_MOVES.values()} == {box, ContainerState.UNKNOWN}


def test_what_has_ended_never_runs_again() -> None:
    ended = ContainerState.EXITED
    targets = {moves.get(ended, ended) for moves in CONTAINER_MOVES.values()}
    assert targets == {ended, ContainerState.UNKNOWN, ContainerState.REMOVING}


def test_half_made_and_half_removed_are_hidden() -> None:
    hidden = {state for state in SandboxState if not is_listed(replace(full_sandbox(), state=state))}
    assert hidden == {SandboxState.CREATING, SandboxState.REMOVING}
    gone = {state for state in ContainerState if not is_listed(replace(full_container(), state=state))}
    assert gone == {ContainerState.CREATING, ContainerState.REMOVING}
