"""ENOSPC, EIO, EMFILE and EROFS at each call into `crib.host` and SQLite, in each verb of a pod's life.

What is called is found by a life without faults. Each fault happens once: the verb then succeeds all the
same, or fails with an error of ours; the retry succeeds, a removal removes everything, and no bug is logged.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.crash.steered import Fault, Kubelet, Steered, Tries, WithHostPoints, running_steered, steps_of

pytestmark = [pytest.mark.root, pytest.mark.system]

ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS)
SOME = 13
"""Calls of the verb that has most of them from one that is tried in the ordinary suite to the next."""


@pytest.fixture
def cribd() -> Iterator[Steered]:
    with running_steered(WithHostPoints) as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("every", "errors"),
    [
        pytest.param(SOME, 1, id="some"),
        pytest.param(1, len(ERRORS), id="all", marks=pytest.mark.nightly),
    ],
)
async def test_a_call_that_fails_is_told_and_the_retry_succeeds(
    cribd: Steered, every: int, errors: int
) -> None:
    calls = await steps_of(cribd, "host", "sql")
    faults = {
        verb: [
            Fault(*step, what="raise", argument=ERRORS[(number + shift) % len(ERRORS)])
            for number, step in enumerate(found)
            if number % every == 0
            for shift in range(errors)
        ]
        for verb, found in calls.items()
    }
    tries = Tries(cribd)
    await tries.try_each(lambda: Kubelet(cribd, shares_pid=True), faults)
    tries.check(least=max(map(len, faults.values())))
