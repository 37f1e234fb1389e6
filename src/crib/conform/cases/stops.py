"""StopContainer: signals, grace periods, repeats."""

from __future__ import annotations

import time

from crib.conform.case import Level, case
from crib.conform.expect import NotApplicable, equal, true
from crib.conform.trial import NOBODY, Box, Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_KILLED = 137
_GRACE = 2
_ENOUGH = 60
"""Seconds of grace that a program which ends at once never needs."""


async def _ready(trial: Trial, script: str, **fields: object) -> Box:
    """A container whose script has set its traps."""
    config = trial.config("sh", "-c", f"{script}; touch /tmp/ready; while :; do sleep 0.05; done")
    for name, value in fields.items():
        setattr(config, name, value)
    box = await trial.box(config)
    await box.sh("until test -e /tmp/ready; do sleep 0.02; done")
    return box


@case(
    "StopContainer",
    Level.MUST,
    "CRI: StopContainer stops with a grace period",
    "StopContainerRequest.container_id,timeout",
    "ContainerStatus.exit_code",
)
async def sends_sigterm_first(trial: Trial) -> None:
    """A program gets SIGTERM, and may end in its own way and with its own code."""
    box = await _ready(trial, "trap 'exit 7' TERM")
    began = time.monotonic()
    await trial.stop(box.id, _ENOUGH)
    status = await box.status()
    equal("ContainerStatus: state", status.state, pb.CONTAINER_EXITED)
    equal("ContainerStatus: exit_code", status.exit_code, 7)
    true(
        "StopContainer",
        time.monotonic() - began < _ENOUGH,
        "an end before the time-out",
        "the whole time-out",
    )


@case("StopContainer", Level.MUST, "CRI: StopContainerRequest.timeout", "StopContainerRequest.timeout")
async def kills_after_the_timeout(trial: Trial) -> None:
    """A program that ignores SIGTERM is killed when the time-out is over, and not before."""
    box = await _ready(trial, "trap '' TERM")
    began = time.monotonic()
    await trial.stop(box.id, _GRACE)
    took = time.monotonic() - began
    equal("ContainerStatus: exit_code", (await box.status()).exit_code, _KILLED)
    true("StopContainer: seconds", took >= _GRACE - 0.1, f"at least {_GRACE}", round(took, 2))


@case("StopContainer", Level.MUST, "CRI: a time-out of 0 terminates at once", "StopContainerRequest.timeout")
async def kills_at_once_without_a_timeout(trial: Trial) -> None:
    """With a time-out of 0 a program is killed at once, whatever it does about SIGTERM."""
    box = await _ready(trial, "trap '' TERM")
    await trial.stop(box.id)
    status = await box.status()
    equal("ContainerStatus: state", status.state, pb.CONTAINER_EXITED)
    equal("ContainerStatus: exit_code", status.exit_code, _KILLED)


@case("StopContainer", Level.MUST, "CRI: StopContainer is idempotent", "StopContainerRequest.container_id")
async def of_an_exited_container_succeeds(trial: Trial) -> None:
    """A stop of a container that has ended succeeds and changes nothing."""
    status = await trial.ended(trial.config("sh", "-c", "exit 3"))
    for timeout in (0, 10):
        await trial.stop(status.id, timeout)
    after = await trial.status(status.id)
    equal(
        "ContainerStatus: exit_code and finished_at",
        (after.exit_code, after.finished_at),
        (3, status.finished_at),
    )


@case("StopContainer", Level.SHOULD, "CRI: StopContainer is idempotent", "StopContainerRequest.container_id")
async def of_a_container_that_is_unknown_succeeds(trial: Trial) -> None:
    """A stop of a container that never was succeeds: there is nothing left to stop."""
    await trial.stop(NOBODY)


@case(
    "StopContainer",
    Level.SHOULD,
    "kubelet: killContainer of a container that never ran",
    "StopContainerRequest.container_id",
)
async def of_a_created_container_succeeds(trial: Trial) -> None:
    """A stop of a container that was never started succeeds."""
    container = await trial.create()
    await trial.stop(container, 5)


@case(
    "StopContainer",
    Level.OPTIONAL,
    "KEP-4960: container stop signals",
    "ContainerConfig.stop_signal",
    "ContainerStatus.stop_signal",
)
async def sends_the_containers_own_signal(trial: Trial) -> None:
    """A stop_signal of the container is told in its status and sent instead of SIGTERM."""
    box = await _ready(trial, "trap 'exit 9' USR1; trap 'exit 8' TERM", stop_signal=pb.SIGNAL_SIGUSR1)
    if (await box.status()).stop_signal != pb.SIGNAL_SIGUSR1:
        raise NotApplicable("ContainerStatus does not tell the stop_signal")
    await trial.stop(box.id, _ENOUGH)
    equal("ContainerStatus: exit_code", (await box.status()).exit_code, 9)
