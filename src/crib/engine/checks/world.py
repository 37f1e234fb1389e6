"""Containers and pods against what runs, and what lies about against both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from crib.engine.core import Core
from crib.engine.losses import LOST, notice_loss
from crib.engine.mending import mended
from crib.engine.recovery.decide import Action, Decision, decide, decide_unseen
from crib.engine.recovery.recover import carry_out, sweep
from crib.engine.sandboxes.stop import StopSandbox
from crib.model.container import ContainerRecord
from crib.model.errors import CribError
from crib.model.finding import Finding
from crib.model.lifecycle import is_listed
from crib.model.sandbox import SandboxRecord, SandboxState

SETTLE_SECONDS = 1.0
"""After which what was found while the daemon works is looked at again: an exit may just have come."""

_R = TypeVar("_R")
_BROKEN_OFF = "was interrupted in state {}"
_TEARDOWN = "its remains are removed"


class WorldFindings:
    """By the same pure table as recovery, and mended by the same hands."""

    def __init__(self, core: Core, stop: StopSandbox) -> None:
        self._core = core
        self._stop = stop

    async def containers(self, *, is_live: bool, repair: bool) -> AsyncIterator[Finding]:
        """Records of containers that do not fit what runs."""
        core = self._core
        # While the daemon works, a verb is working on what is half-made, and finishes it itself.
        rows = [row for row in core.containers if is_listed(row) or not is_live]
        for known in await _twice(rows, self._has_wrong_container, is_live=is_live):
            if core.locks.of(known.id).locked():
                yield Finding(
                    "containers",
                    known.id,
                    "is not checked: a verb is working on it (crib work)",
                    is_note=True,
                )
                continue
            try:
                row, decision = await self._decision(known)
            except CribError as error:
                yield Finding("containers", known.id, f"cannot be checked: {error}")
                continue
            if decision.action is Action.KEEP:
                continue
            found = Finding("containers", row.id, *_words(row, decision))
            if core.sandboxes.get(row.sandbox_id) is None:
                found = Finding(
                    "containers", row.id, f"is of a pod {row.sandbox_id} that is not there", _TEARDOWN
                )
            if repair and is_live:
                (found,) = await mended(core, [found], carry_out(core, row, decision))
            yield found

    async def _has_wrong_container(self, row: ContainerRecord) -> bool:
        if self._core.locks.of(row.id).locked():
            return (
                True  # nobody waits for a verb that may hang: if it is done a moment later, it is looked at
            )
        try:
            _, decision = await self._decision(row)
        except CribError:
            return True
        return decision.action is not Action.KEEP

    async def _decision(self, known: ContainerRecord) -> tuple[ContainerRecord, Decision]:
        """What recovery would do with the container as it is on record now; one that is gone stays so."""
        core = self._core
        async with core.locks.of(known.id):  # never in the middle of a start or a removal
            row = core.containers.get(known.id)
            if row is None:
                return known, Decision(Action.KEEP)
            sandbox = core.sandboxes.get(row.sandbox_id)
            if sandbox is None:
                return row, Decision(Action.TEARDOWN)
            now, same_boot = core.clock(), sandbox.boot_id == core.facts.boot_id
            decision = decide_unseen(row, same_boot=same_boot, now=now)
            return row, decision or decide(row, await core.caretaker(sandbox).containers.observe(row), now)

    async def pods(self, *, is_live: bool, repair: bool) -> AsyncIterator[Finding]:
        """Records of pods that do not fit what is there."""
        core = self._core
        rows = [row for row in core.sandboxes if is_listed(row) or not is_live]
        for row in await _twice(rows, self._has_wrong_pod, is_live=is_live):
            problem, mend = await self._pod(row)
            if not problem:
                continue
            found = Finding("pods", row.id, problem, mend)
            if repair and is_live:
                work = notice_loss(core, row.id) if row.state is SandboxState.READY else self._stop(row.id)
                (found,) = await mended(core, [found], work)
            yield found

    async def _has_wrong_pod(self, row: SandboxRecord) -> bool:
        return bool((await self._pod(row))[0])

    async def _pod(self, known: SandboxRecord) -> tuple[str, str]:
        """What is wrong, and what mends it; empty when nothing is."""
        core, row = self._core, self._core.sandboxes.get(known.id)
        if row is None or row.state is not known.state or row.released:
            return "", ""
        if not is_listed(row):
            return _BROKEN_OFF.format(row.state), _TEARDOWN
        if row.boot_id != core.facts.boot_id:
            return "is from before the last boot, and was not released", "what it holds is given back"
        if row.state is SandboxState.READY:
            try:
                is_whole = await core.caretaker(row).pods.alive(row)
            except CribError as error:
                return f"cannot be checked: {error}", ""
            return (
                ("", "") if is_whole else (f"is ready on record, but {LOST}", "it is NOT_READY from then on")
            )
        if row.reason and row.reason != LOST:
            return f"could not be stopped: {row.reason}", "it is stopped again"
        return "", ""

    async def leftovers(self, *, is_live: bool, repair: bool) -> AsyncIterator[Finding]:
        """What belongs to no record: bundles, mounts, namespaces, cgroups, monitors, exit files, sockets."""
        core, names = self._core, await self._strays()
        if names and is_live:
            await asyncio.sleep(SETTLE_SECONDS)
            still = frozenset(await self._strays())
            names = [what for what in names if what in still]
        found = [Finding("leftovers", what, "belongs to no record", "it is removed") for what in names]
        if found and repair and is_live:
            found = await mended(core, found, sweep(core))
        for one in found:
            yield one

    async def _strays(self) -> list[str]:
        core, found = self._core, dict[str, None]()
        for handler in core.ports.handlers.values():
            found.update(dict.fromkeys(await handler.sweep(core.known_ids, dry=True)))
        return list(found)

    async def logs(self) -> AsyncIterator[Finding]:
        """Logs that are nobody's, or lead nowhere: told, as they are the client's."""
        core = self._core
        for where, text in await core.handler("")[1].logs.odd(tuple(core.sandboxes), tuple(core.containers)):
            yield Finding("logs", where, text, is_note=True)


def _words(row: ContainerRecord, decision: Decision) -> tuple[str, str]:
    """What is wrong, and what mends it."""
    match decision.action:
        case Action.TEARDOWN:
            return _BROKEN_OFF.format(row.state), _TEARDOWN
        case Action.KEEP_RUNNING:
            return f"runs, and is {row.state} on record", "it is RUNNING from then on"
        case Action.KILL:
            return (
                f"is {row.state} on record, and its monitor is dead",
                "it is killed, and EXITED from then on",
            )
        case _:
            code = decision.exit.code if decision.exit is not None else ""
            return f"is {row.state} on record, and has ended", f"it is EXITED with code {code} from then on"


async def _twice(
    things: Iterable[_R], is_wrong: Callable[[_R], Awaitable[bool]], *, is_live: bool
) -> list[_R]:
    """Those that are wrong; while the daemon works those that still are a moment later."""
    found = [thing for thing in things if await is_wrong(thing)]
    if found and is_live:
        await asyncio.sleep(SETTLE_SECONDS)
        found = [thing for thing in found if await is_wrong(thing)]
    return found
