"""Odd requests over every call: the caller hears what is wrong with them, and the daemon is as before.

The rounds (tests/fuzz/rounds.py) are drawn from a seed, which is printed. With CRIB_FUZZ_SEED and
CRIB_FUZZ_ROUND in the environment one of them is played again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Iterator

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.fuzz.rounds import CONFIG, IMAGE, Rounds, resident
from tests.images import busybox_image
from tests.system.labs.daemon import Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

STEADY_SEED = "steady"
"""Of the rounds in script/test: a change of ours makes them fail, and nothing else does."""
ROUNDS = 40
NIGHT_SECONDS = 600.0
MEMORY_ROUNDS = 10
"""After as many rounds all code has been imported, and every cache has been filled once."""
MEMORY_GROWTH = 96 << 20
"""Bytes that the daemon may be larger by after any number of rounds: the allocator keeps some."""


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd(extra=CONFIG, built=[busybox_image(name=IMAGE)], warm=False) as daemon:
        asyncio.run(_share_pids_once(daemon))
        yield daemon


async def _share_pids_once(cribd: Cribd) -> None:
    """The root of infra processes is there from now on."""
    async with cribd.connect() as cri:
        shared = pb.NamespaceOption(pid=pb.POD)
        await cri.remove_pod(await cri.run_pod("warm-up", log_directory="", namespaces=shared))


async def play(cribd: Cribd, seed: str, until: Callable[[int], bool]) -> None:
    """Rounds from the first (or from the one that the environment names) until told."""
    seed = os.environ.get("CRIB_FUZZ_SEED", seed)
    only = os.environ.get("CRIB_FUZZ_ROUND")
    print(f"CRIB_FUZZ_SEED={seed}")
    rounds = Rounds(cribd, seed)
    with rounds.haven():
        await rounds.warm_up()
        number, settled = int(only or 0), 0
        while not rounds.findings.problems:
            await rounds.play(number)
            number += 1
            if only or until(number):
                break
            settled = resident(cribd.pid) if number == MEMORY_ROUNDS else settled
    found = rounds.findings
    print(f"{found.calls} calls, slowest Version {found.slowest_version:.3f} s, {dict(found.codes)}")
    assert not found.problems, f"CRIB_FUZZ_SEED={seed} CRIB_FUZZ_ROUND={number - 1}\n" + "\n\n".join(
        found.problems
    )
    grown = resident(cribd.pid) - settled
    assert not settled or grown <= MEMORY_GROWTH, f"cribd has grown by {grown >> 20} MiB (seed {seed})"


async def test_no_odd_request_is_our_fault_or_leaves_anything(cribd: Cribd) -> None:
    await play(cribd, STEADY_SEED, lambda number: number >= ROUNDS)


@pytest.mark.nightly
async def test_ten_minutes_of_odd_requests_do_no_harm(cribd: Cribd) -> None:
    end = time.monotonic() + NIGHT_SECONDS
    await play(cribd, secrets.token_hex(4), lambda _: time.monotonic() > end)
