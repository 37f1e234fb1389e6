"""Why containers have ended: put together when they do, and kept for a day after their removal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crib.engine.tables import MIN_PREFIX
from crib.model.caller import Caller
from crib.model.container import ContainerRecord, Exit
from crib.model.ends import ContainerEnd, EndCause, StopRequest
from crib.model.ids import ContainerId
from crib.model.sandbox import SandboxRecord
from crib.ports.clocks import Clock
from crib.ports.journal import Journal, Label
from crib.tasks.calls import current_call, current_caller

KEPT_FOR = 24 * 3600 * 1_000_000_000
"""Nanoseconds from its end, or its removal, for which a container without a record is remembered."""
MOST_KEPT = 2000
"""Ends that are remembered; beyond that the oldest goes."""
FORGET_EACH = 100
"""Ends from one look for what is too old to the next."""
MOST_TOLD = 100
"""Ends that one question is answered with, the latest ones."""
EVICTION = "eviction"
"""Stands for the verb of an order that a node plugin has given."""
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class WantedEnd:
    """Which containers a person means."""

    target: str
    """A pod (NAME or NAMESPACE/NAME), or the beginning of an id of a container."""
    name: str = ""
    """Of the container in the pod; empty: any."""

    def means(self, container: str, pod: str, name: str) -> bool:
        if len(self.target) >= MIN_PREFIX and container.startswith(self.target):
            return True
        is_pod = self.target in (pod, pod.partition("/")[2])
        return is_pod and self.name in ("", name)


class Ends:
    """Remembers who asked for an end until it comes, and the end itself from then on."""

    def __init__(self, journal: Journal, clock: Clock, boot_id: str, is_known: Callable[[str], bool]) -> None:
        """`is_known`: whether there is a container of that id on record."""
        self._shelf = journal.shelf("end", ContainerEnd)
        self._clock = clock
        self._boot_id = boot_id
        self._orders: dict[ContainerId, StopRequest] = {}
        self._is_known = is_known
        self._until_look = 0

    def ordered(self, record: ContainerRecord, grace: float = 0.0) -> None:
        """The caller of the current call wants it to end. Of several the first one counts."""
        if record.id not in self._orders:
            self._orders[record.id] = self._order(grace, record.stop_signal if grace > 0 else 9)

    def evicted(self, record: ContainerRecord, grace: float, reason: str) -> None:
        """A node plugin wants it to end; `reason` says which one, and why. The first who wants it counts."""
        self.ordered(record, grace)
        order = self._orders[record.id]
        if not order.reason:
            self._orders[record.id] = replace(order, verb=EVICTION, caller=Caller(), reason=reason)

    def killed(self, record: ContainerRecord) -> None:
        """SIGKILL is sent; by crib itself, where nobody has asked."""
        self.ordered(record)
        self._orders[record.id] = replace(self._orders[record.id], killed=True)

    def ended(self, record: ContainerRecord, sandbox: SandboxRecord | None, exit_: Exit) -> None:
        """Keep why; `record` is as it is from now on."""
        stop = self._orders.pop(record.id, None)
        is_signal = record.exit_code > _SIGNALLED and not exit_.lost
        meta = None if sandbox is None else sandbox.config.metadata
        end = ContainerEnd(
            id=record.id,
            sandbox_id=record.sandbox_id,
            pod="" if meta is None else f"{meta.namespace}/{meta.name}",
            name=record.config.name,
            attempt=record.config.attempt,
            cause=self._cause(exit_, sandbox, stop, is_signal=is_signal),
            exit_code=record.exit_code,
            signal=record.exit_code - _SIGNALLED if is_signal else 0,
            started_at=record.started_at,
            finished_at=record.finished_at,
            reason=record.reason,
            message=record.message,
            pod_problem="" if sandbox is None else sandbox.reason,
            stop=stop,
            oom=exit_.oom,
        )
        self._put(end, end.finished_at)
        self._until_look -= 1
        if self._until_look < 0:
            self._until_look = FORGET_EACH
            self._forget_old()

    def _cause(
        self, exit_: Exit, sandbox: SandboxRecord | None, stop: StopRequest | None, *, is_signal: bool
    ) -> EndCause:
        if exit_.never_ran:
            return EndCause.START_FAILED
        if exit_.oom_killed:
            return EndCause.OOM
        if exit_.lost:
            is_old = sandbox is not None and sandbox.boot_id not in ("", self._boot_id)
            return EndCause.REBOOT if is_old else EndCause.MONITOR_LOST
        if stop is not None:
            return EndCause.STOPPED
        return EndCause.SIGNAL if is_signal else EndCause.EXITED

    def removed(self, record: ContainerRecord) -> None:
        """The container has no record any more."""
        self._orders.pop(record.id, None)
        end = self._shelf.get(record.id)
        if end is not None:
            order = self._order(0.0, 0)
            self._put(replace(end, removed_at=order.at, removed_by=order), order.at)

    def _order(self, grace: float, signal: int) -> StopRequest:
        call = current_call()
        return StopRequest("" if call is None else call.verb, current_caller(), self._clock(), grace, signal)

    def _put(self, end: ContainerEnd, at: int) -> None:
        self._shelf.put(Label(end.id, f"{end.pod}/{end.name}", at), end)

    def find(self, wanted: WantedEnd) -> Sequence[ContainerEnd]:
        """The ends that are remembered of what is meant, the latest first."""
        found = []
        for label in self._shelf.labels():
            pod, _, name = label.title.rpartition("/")
            if not wanted.means(label.subject, pod, name) or self._is_old(label):
                continue
            if end := self._shelf.get(label.subject):
                found.append(end)
                if len(found) == MOST_TOLD:
                    break
        return sorted(found, key=lambda end: -end.finished_at)

    def _is_old(self, label: Label) -> bool:
        return label.at < self._clock() - KEPT_FOR and not self._is_known(label.subject)

    def _forget_old(self) -> None:
        """Drop what is too old, and what is too many."""
        left: list[str] = []
        gone: list[str] = []
        for label in self._shelf.labels():
            (gone if self._is_old(label) else left).append(label.subject)
        if gone or len(left) > MOST_KEPT:
            self._shelf.drop([*gone, *left[MOST_KEPT:]])
