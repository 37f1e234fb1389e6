"""Many lives of pods, ten at a time, while things go wrong: nothing is lost, left, or gathered.

Faults are those of the other modules here, at random points: errors of the kernel and of SQLite, runtimes and
monitors that are killed, callers that go away, and now and then the daemon, alone or with its monitors. Lives
come in rounds. After each round nothing may be there that was not there before, and what a daemon could
gather is counted: memory, descriptors, threads, tasks, write-ahead logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crib.backends.records.follower import RETRY
from crib.client.errors import ClientError, Unavailable
from tests.crash.steered import Dead, Fault, Kubelet, Steered, WithHostPoints, Work, running_steered, steps_of
from tests.system.labs.daemon import until

pytestmark = [pytest.mark.root, pytest.mark.system]

AT_ONCE = 10
ROUND = 50
"""Lives in one round."""
SOAK_LIVES = int(os.environ.get("CRIB_SOAK_LIVES", "1000"))
"""Of the nightly suite."""
SEED = 11
TRIES = 20
"""Of one verb: the faults of the other pods' lives meet it too."""
PAUSE = 0.02
"""Seconds between two faults."""
KILL_SECONDS = 1.0
"""That the daemon's own end has to meet its place: few places are passed between two faults."""
LEAVES = 0.05
"""Of all calls, those whose caller goes away, at any time within `LONGEST`."""
LONGEST = 0.05
KILLS = 3
"""Rounds from one in which the daemon is killed to the next; in the last half of them it never is."""
WARM = 100
"""Lives of one daemon until what it keeps for good is there; what comes after is compared."""
IDLE_TASKS = 17
"""Of a daemon that has nothing to do, at most."""
ENDS = ("kill", "kill with monitors")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EMFILE)
"""Not EROFS: what a disk kept while it could not be written goes with the next start."""


@dataclass
class Patient(Kubelet):
    """A kubelet among others: whoever finds the daemon dead starts it."""

    chance: random.Random = field(default_factory=random.Random)
    revival: asyncio.Lock = field(default_factory=asyncio.Lock)
    gone: int = 0

    async def verb(self, name: str, work: Work, before: Work | None = None) -> None:
        for left in reversed(range(TRIES)):
            try:
                if before is not None and left < TRIES - 1:
                    await before()
                await self._perhaps_left(work)
                return
            except ClientError as error:
                self.failures.append(f"{name}: {error.code}: {error.message}")
                if not left:
                    raise
            await self._revive()

    async def _perhaps_left(self, work: Work) -> None:
        if self.chance.random() > LEAVES:
            await work()
            return
        try:
            async with asyncio.timeout(self.chance.random() * LONGEST):
                await work()
        except TimeoutError:
            self.gone += 1
            raise Unavailable("given up", "CANCELLED") from None

    async def _revive(self) -> None:
        with contextlib.suppress(ClientError):
            await self._connect()
            await until(self.runtime_ready)

    async def _connect(self) -> None:
        async def connected() -> bool:
            async with self.revival:
                if not self.cribd.running:
                    await asyncio.to_thread(self.cribd.start)
            try:
                await super(Patient, self)._connect()
            except ClientError:  # it has been killed once more, or is just ending
                return False
            return True

        await until(connected)


@dataclass
class Figures:
    """What one daemon has after a round."""

    pid: int
    lives: int
    memory: int
    """Bytes that are resident."""
    descriptors: int
    threads: int
    tasks: int
    logs: int
    """Bytes of the databases' write-ahead logs."""

    @staticmethod
    def of(cribd: Steered, lives: int) -> Figures:
        process = Path(f"/proc/{cribd.pid}")
        return Figures(
            pid=cribd.pid,
            lives=lives,
            memory=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            descriptors=len(list((process / "fd").iterdir())),
            threads=len(list((process / "task").iterdir())),
            tasks=cribd.figures()["tasks"],
            logs=sum(file.stat().st_size for file in cribd.root.glob("[ds]/**/*-wal")),
        )

    def __str__(self) -> str:
        return (
            f"{self.lives:6} lives, pid {self.pid}: {self.memory / 2**20:.1f} MiB, {self.threads} threads,"
            f" {self.descriptors} descriptors, {self.tasks} tasks, {self.logs / 2**20:.1f} MiB of logs"
        )


class Soak:
    """Rounds of lives, and one who makes things go wrong."""

    def __init__(self, cribd: Steered, steps: Sequence[tuple[str, int]]) -> None:
        self.cribd = cribd
        self.chance = random.Random(SEED)
        self.steps = steps
        self.revival = asyncio.Lock()
        self.numbers = itertools.count()
        self.ordered: Counter[str] = Counter()
        self.calls_failed = self.callers_gone = 0
        self.rounds: list[Figures] = []

    async def round(self, *, kills: bool) -> None:
        before = self.cribd.leftovers()
        waiting = list(range(ROUND))
        async with self._faults(kills=kills):
            await asyncio.gather(*(self._live_on(waiting) for _ in range(AT_ONCE)))
        if not self.cribd.running:
            await asyncio.to_thread(self.cribd.start)
        self.cribd.settle(before)
        assert "Traceback" not in self.cribd.log(), self.cribd.log()
        self.rounds.append(Figures.of(self.cribd, (len(self.rounds) + 1) * ROUND))
        print(self.rounds[-1])

    async def _live_on(self, waiting: list[int]) -> None:
        while waiting:
            waiting.pop()
            number = next(self.numbers)
            kubelet = Patient(self.cribd, name=f"pod{number}", shares_pid=number % 2 == 0)
            kubelet.chance, kubelet.revival = self.chance, self.revival
            verb = self.chance.choice(("exec", "update", "reopen log", "repair", "stop container"))
            async with kubelet.connected():
                await kubelet.live("create", "start", verb)
            self.calls_failed += len(kubelet.failures)
            self.callers_gone += kubelet.gone

    @contextlib.asynccontextmanager
    async def _faults(self, *, kills: bool) -> AsyncIterator[None]:
        async def order() -> None:
            while True:
                await asyncio.sleep(PAUSE)  # the moment of the next fault; any will do
                fault = self._fault(kills=kills)
                if fault.what in ENDS:
                    await self._nothing_is_owed()
                self.order(fault)
                if fault.what in ENDS:
                    await asyncio.sleep(KILL_SECONDS)  # a period between two kills

        ordering = asyncio.ensure_future(order())
        try:
            yield
        finally:
            ordering.cancel()
            await asyncio.wait([ordering])
            with contextlib.suppress(Dead, OSError):
                self.cribd.carried_out()

    async def _nothing_is_owed(self) -> None:
        """No fault is to come. A row that could not be written is owed until the next try, and goes with a
        daemon that is killed before that: what was removed comes back.
        """
        with contextlib.suppress(Dead, OSError):
            self.cribd.carried_out()
        await asyncio.sleep(2 * RETRY)  # the next try has been made then

    def order(self, fault: Fault) -> None:
        """Not during a start: cribd ends when that fails, and whoever started it would have to again."""
        if not self.cribd.starting.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(Dead, OSError):
                self.cribd.carried_out()
                self.cribd.order(fault)
                self.ordered[fault.what] += 1
        finally:
            self.cribd.starting.release()

    def _fault(self, *, kills: bool) -> Fault:
        point, _ = self.chance.choice(self.steps)
        number = self.chance.randint(1, AT_ONCE)
        if kills and self.chance.random() < 0.02:
            what = self.chance.choice(ENDS)
            return Fault(point, number, self.chance.choice(("before", "after")), what)
        if not point.startswith(("host", "sql")) or self.chance.random() < 0.2:
            return Fault(point, number, "after", "kill programs", [self.chance.choice(("crun", "conmon"))])
        return Fault(point, number, what="raise", argument=self.chance.choice(ERRORS))


@pytest.fixture
def cribd() -> Iterator[Steered]:
    with running_steered(WithHostPoints) as daemon:
        yield daemon


@pytest.mark.parametrize(
    "lives", [150, pytest.param(SOAK_LIVES, marks=pytest.mark.nightly)], ids=["some", "many"]
)
async def test_lives_among_faults_leave_nothing_and_gather_nothing(cribd: Steered, lives: int) -> None:
    passed = await steps_of(cribd, "stage", "port", "host", "sql")
    soak = Soak(cribd, [step for steps in passed.values() for step in steps])
    rounds = lives // ROUND
    for number in range(rounds):
        await soak.round(kills=number < rounds // 2 and number % KILLS == 0)
    print(
        f"ordered: {dict(soak.ordered)}; calls failed: {soak.calls_failed}; "
        f"callers gone: {soak.callers_gone}; starts of cribd: {cribd.starts}"
    )
    assert soak.calls_failed > lives // 10
    # What could not be taken away at once, and is gone, is looked for once more.
    await until(lambda: cribd.figures()["tasks"] <= IDLE_TASKS)
    last = soak.rounds[-1]
    of_last = [one for one in soak.rounds if one.pid == last.pid]
    first = next(one for one in of_last if one.lives >= of_last[0].lives + WARM - ROUND)
    check_flat(first, last)


async def test_faults_spare_a_daemon_that_starts(cribd: Steered) -> None:
    soak = Soak(cribd, [])
    cribd.kill()
    start = asyncio.ensure_future(asyncio.to_thread(cribd.start))
    while not start.done():
        soak.order(Fault("host directories.make_directory", what="raise", argument=errno.EIO))
        await asyncio.sleep(0)
    await start
    cribd.carried_out()


def check_flat(first: Figures, last: Figures) -> None:
    """What is kept of the latest thousand pods (the timeline) may have grown by 10 KiB a pod."""
    lives = min(1000, last.lives - first.lives)
    grown = last.memory - first.memory
    assert grown < (16 << 20) + lives * 10_000, f"{grown} bytes more: {first}; {last}"
    assert last.descriptors <= first.descriptors + 8, f"{first}; {last}"
    assert last.threads <= 64, f"{last}"
    assert last.logs < 32 << 20, f"{last}"
