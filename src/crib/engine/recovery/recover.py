"""Brings records and world together after a start; nothing that fails or hangs holds up the rest.

The gate opens when what lists show is true again, and at the latest after `GATE_BOUND`. What is not recovered
by then goes on behind it, as do the pods' networks and the sweeps. Meanwhile an object is shown as last
known, and who wants to change a pod waits for its lock, which recovery holds for `BOUND` at most, or until a
thread that it waits for is given up.

Assumes: every path, cgroup and mount of ours derives from an id, and a record is there before its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace

from crib.engine.abandon import clean_later
from crib.engine.containers.checkpoint import begin_undoing
from crib.engine.containers.exits import record_exit, watch_exits
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.losses import LOST, notice_loss, watch_pods
from crib.engine.recovery.decide import Action, Decision, decide, decide_unseen
from crib.engine.sandboxes.teardown import release_sandbox, teardown_sandbox
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import Broken, CribError, Unavailable
from crib.model.ids import HandlerName, SandboxId
from crib.model.lifecycle import (
    CONTAINER_MOVES,
    SANDBOX_MOVES,
    ContainerVerb,
    SandboxVerb,
    is_listed,
    move_container,
    move_sandbox,
)
from crib.model.sandbox import SandboxRecord, SandboxState
from crib.ports.handler import Handler

_log = logging.getLogger(__name__)

GATE_BOUND = 3.0
"""Seconds after which the gate opens though something is not recovered yet."""
LOOK_BOUND = 1.0
"""Seconds after which exits and losses are watched though something has not been looked at yet."""
BOUND = 10.0
"""Seconds that one record may take."""
PARALLEL = 16
"""Records that are worked on together."""
PATIENCE = 0.25
"""Seconds after which one that takes longer makes room for the next, and continues beside it."""

Work = Callable[[], Coroutine[object, object, None]]
Doubt = Callable[[str], None]


async def recover(core: Core) -> asyncio.Task[None]:
    """Returns when the gate may open; the task is what goes on behind it."""
    begin_undoing(core)
    recovery = _Recovery(core)
    states = core.keeper.serve("recovery", recovery.states())
    await asyncio.wait([states], timeout=GATE_BOUND)
    if not states.done():
        _log.warning(
            "ready after %.0f s without %s: that work continues", GATE_BOUND, ", ".join(recovery.under_way)
        )
    return core.keeper.serve("recovery behind the gate", recovery.rest(states))


class _Recovery:
    """That of one start."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._slots = asyncio.Semaphore(PARALLEL)
        self._sandboxes: dict[SandboxId, asyncio.Task[None]] = {}
        self.under_way: dict[str, None] = {}
        """What is being recovered."""

    async def states(self) -> None:
        """Each container, each sandbox when its containers are done; and exits and losses are watched."""
        core = self._core
        looks: dict[SandboxId, list[asyncio.Task[None]]] = {}
        for row in core.containers:
            if not _is_settled(core, row):
                looks.setdefault(row.sandbox_id, []).append(self._begin_container(row))
        every = [look for group in looks.values() for look in group]
        await _over(every, LOOK_BOUND)
        # From here on containers are killed and their exits awaited.
        for name, handler in core.ports.handlers.items():
            core.keeper.serve(f"exits of {name}", watch_exits(core, handler.containers))
        for pod in core.sandboxes:
            if not (pod.released and is_listed(pod)):
                self._sandboxes[pod.id] = self._begin_sandbox(pod, looks.get(pod.id, ()))
        await _over(self._sandboxes.values(), LOOK_BOUND)
        for name, handler in core.ports.handlers.items():
            core.keeper.serve(f"pods of {name}", watch_pods(core, handler))
        await _over([*every, *self._sandboxes.values()])

    async def rest(self, states: asyncio.Task[None]) -> None:
        """Work that no list of pods has to wait for. What is made meanwhile is left alone."""
        core = self._core
        for row in (*core.sandboxes, *core.containers):
            if row.abandoned:
                clean_later(core, row)
        await _over([states, *(self._begin_network(key, state) for key, state in self._sandboxes.items())])
        await self._bounded("what belongs to no record", lambda: sweep(core), "sweep", 6 * BOUND)
        await _sweep_networks(core)

    def _begin_container(self, row: ContainerRecord) -> asyncio.Task[None]:
        core, what = self._core, f"container {row.id}"

        async def work() -> None:
            if problem := await self._bounded(what, lambda: _container(core, row), "container"):
                _doubt_container(core, row, problem)

        return core.keeper.serve("recovery", work(), row.id)

    def _begin_sandbox(self, row: SandboxRecord, looks: Iterable[asyncio.Task[None]]) -> asyncio.Task[None]:
        core, what = self._core, f"pod sandbox {row.id}"

        async def work() -> None:
            await _over(looks)
            if problem := await self._bounded(what, lambda: _sandbox(core, row.id), "pod"):
                _doubt_sandbox(core, row, problem)

        return core.keeper.serve("recovery", work(), row.id)

    def _begin_network(self, sandbox: SandboxId, state: asyncio.Task[None]) -> asyncio.Task[None]:
        core, what = self._core, f"the network of pod sandbox {sandbox}"

        async def work() -> None:
            await _over([state])
            await self._bounded(what, lambda: _resume_network(core, sandbox), "network")

        return core.keeper.serve("recovery", work(), sandbox)

    async def _bounded(self, what: str, work: Work, kind: str, bound: float = BOUND) -> str:
        """Do the work within `bound` seconds; returns what went wrong, or nothing. It is counted by `kind`.

        What a thread keeps from ending is cancelled and no longer waited for; its locks it has until then.
        """
        self.under_way[what] = None
        try:
            async with self._turn():
                task = self._core.keeper.part(what, work())
                try:
                    with self._core.figures.recoveries.timed(kind):
                        async with asyncio.timeout(bound):
                            await asyncio.shield(task)
                finally:
                    task.cancel()
        except TimeoutError as error:  # a thread's own limit says what it is of
            problem = str(error) or f"recovery took more than {bound:.0f} s"
            _log.error("recovering %s: %s", what, problem)
        except Exception as error:
            problem = str(error) or type(error).__name__
            _log.error("recovering %s: %s", what, error, exc_info=not isinstance(error, CribError))
        else:
            return ""
        finally:
            del self.under_way[what]
        return problem

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A place among those that are worked on, given back after `PATIENCE` at the latest."""
        await self._slots.acquire()
        held = [self._slots]

        def leave() -> None:
            if held:
                held.pop().release()

        timer = asyncio.get_running_loop().call_later(PATIENCE, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()


async def _over(tasks: Iterable[asyncio.Task[None]], within: float | None = None) -> None:
    """Wait until all of them are, for so many seconds at most."""
    if pending := [task for task in tasks if not task.done()]:
        await asyncio.wait(pending, timeout=within)


def _is_settled(core: Core, record: ContainerRecord) -> bool:
    """Whether there is nothing to do: most records of a node that has been up for long are of this kind."""
    return record.state is ContainerState.EXITED and core.sandboxes.get(record.sandbox_id) is not None


def _doubt_container(core: Core, row: ContainerRecord, problem: str) -> None:
    """Nobody knows how it is: shown as UNKNOWN, so that the kubelet removes it."""
    now = core.containers.get(row.id)
    if now is not None and now.state in CONTAINER_MOVES[ContainerVerb.DOUBT]:
        state = move_container(now, ContainerVerb.DOUBT)
        core.containers.put(replace(now, state=state, reason="RecoveryError", message=problem))


def _doubt_sandbox(core: Core, row: SandboxRecord, problem: str) -> None:
    """Half-made or half-removed is shown as NOT_READY, so that the kubelet removes it; a READY one stays."""
    now = core.sandboxes.get(row.id)
    if now is not None and now.state in SANDBOX_MOVES[SandboxVerb.DOUBT]:
        state = move_sandbox(now, SandboxVerb.DOUBT)
        core.sandboxes.put(replace(now, state=state, reason=problem))


async def _container(core: Core, record: ContainerRecord) -> None:
    sandbox = core.sandboxes.get(record.sandbox_id)
    if sandbox is None:
        await teardown_container(core, record)
        return
    now = core.clock()
    decision = decide_unseen(record, same_boot=sandbox.boot_id == core.facts.boot_id, now=now)
    if decision is None:
        decision = decide(record, await core.caretaker(sandbox).containers.observe(record), now)
    await carry_out(core, record, decision)


async def carry_out(core: Core, record: ContainerRecord, decision: Decision) -> None:
    """Make record and world agree as the table says, unless a caller, or its exit, came before the answer."""
    if core.containers.get(record.id) is not record:
        return
    match decision.action:
        case Action.TEARDOWN:
            await teardown_container(core, record)
        case Action.KEEP_RUNNING:
            began = record.started_at or core.clock()
            state = move_container(record, ContainerVerb.FIND_RUNNING)
            core.containers.put(replace(record, state=state, started_at=began, reason="", message=""))
        case Action.KEEP_CREATED:
            state = move_container(record, ContainerVerb.FIND_CREATED)
            core.containers.put(replace(record, state=state, reason="", message=""))
        case Action.KILL:
            assert decision.exit is not None
            containers = core.caretaker(core.sandboxes.get(record.sandbox_id)).containers
            await containers.signal(record, signal.SIGKILL, everyone=True)
            await record_exit(core, decision.exit)
        case Action.MARK_EXITED:
            assert decision.exit is not None
            await record_exit(core, decision.exit)
        case Action.KEEP:
            pass


async def _sandbox(core: Core, sandbox: SandboxId) -> None:
    async with core.locks.of(sandbox):
        record = core.sandboxes.get(sandbox)
        if record is None:
            return
        if not is_listed(record):
            await teardown_sandbox(core, record, "interrupted")
            return
        if record.released:
            return
        if record.boot_id == core.facts.boot_id:
            await notice_loss(core, sandbox)
            record = core.sandboxes.get(sandbox) or record
            if record.reason == LOST or record.state is SandboxState.READY:
                return  # what runs in a lost one still is the client's to stop
        # The reason of a run that failed lets the next try of that run clear it away.
        reason = record.reason if record.state is SandboxState.NOT_READY else LOST
        state = move_sandbox(record, SandboxVerb.LOSE)
        record = core.sandboxes.put(replace(record, state=state, reason=reason))
        released = await release_sandbox(core, record)
        core.sandboxes.put(replace(released, reason=reason))


async def _resume_network(core: Core, sandbox: SandboxId) -> None:
    async with core.locks.of(sandbox):  # a stop comes before or after it
        record = core.sandboxes.get(sandbox)
        if record is None or record.state is not SandboxState.READY or record.config.host_network:
            return
        with core.figures.network.timed("resume"):
            attachment = await core.ports.networks.resume(core.pod_network(record))
        now = core.sandboxes.get(sandbox)
        if attachment is not None and now is not None:
            _log.warning("pod %s: its network was made again: it has %s", sandbox, attachment.addresses)
            core.sandboxes.put(replace(now, network=attachment))


def watch_handler(core: Core, name: HandlerName, handler: Handler) -> None:
    """Watch exits and losses of what a handler makes that was opened later."""
    core.keeper.serve(f"exits of {name}", watch_exits(core, handler.containers))
    core.keeper.serve(f"pods of {name}", watch_pods(core, handler))


async def sweep(core: Core) -> None:
    """Remove whatever of ours belongs to no record; Broken with what failed, after all handlers' sweeps."""
    failures: list[CribError | OSError] = []
    for handler in core.ports.handlers.values():
        try:
            for what in await handler.sweep(core.known_ids):
                _log.warning("removed %s: it belonged to no record", what)
        except (CribError, OSError) as error:
            failures.append(error)
    if failures:
        raise Broken("; ".join(map(str, failures))) from failures[0]


async def _sweep_networks(core: Core) -> None:
    """What cannot be done while pods are at work is tried again later."""
    try:
        await _release_networks(core)
    except Unavailable as error:
        _log.warning("garbage of networks will be collected later: %s", error)
        core.retries.later("pods' networks", "garbage collection", lambda: _release_networks(core))
    except Exception as error:
        is_bug = not isinstance(error, CribError)
        _log.error("garbage of networks could not be collected: %s", error, exc_info=is_bug)


async def _release_networks(core: Core) -> None:
    attached = {row.id for row in core.sandboxes if not row.released}
    with core.figures.network.timed("sweep"):
        released = await core.ports.networks.sweep(attached)
    for what in released:
        _log.warning("released %s: it belonged to no pod", what)
