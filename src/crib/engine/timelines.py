"""The timelines of all pods: those at work in memory, the others in the journal, also after a restart."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from functools import partial

from crib.engine.notices import Notices
from crib.engine.tables import MIN_PREFIX
from crib.engine.timeline import PodStages, SandboxTimeline, StageClock
from crib.model.events import PodTimeline
from crib.model.ids import SandboxId
from crib.ports.journal import Journal, Label

New = Callable[[PodTimeline], SandboxTimeline]
NameOf = Callable[[SandboxId], str]

IN_MEMORY = 64
"""Timelines in memory besides those at work."""
KEPT_ENDED = 1000
"""Timelines of pods that are no longer there: the youngest pods' are kept."""
WRITE_PAUSE = 1.0
"""Seconds for which changes are gathered: what a kill of the daemon takes of a timeline."""
WRITE_AT_ONCE = 100
"""Timelines that are written without letting others have the loop."""
PRUNE_PAUSE = 60.0
"""Seconds between two looks for timelines that are too many."""
LONG_SECONDS = 30.0
"""From which on a stage is unusual, and told of."""
PATIENT = {"PullImage": 600.0, "queued": 120.0, "grace": float("inf")}
"""The same for those that may take long: the last one waits for what the pod asked for."""


class Timelines:
    """The timeline of each sandbox."""

    def __init__(self, journal: Journal, notices: Notices, new: New, name_of: NameOf) -> None:
        """`new` makes a timeline of what is kept of it; `name_of` tells NAMESPACE/NAME of a sandbox that is
        on record, and nothing for another.
        """
        self._new = new
        self._name_of = name_of
        self._notices = notices
        self._shelf = journal.shelf("timelines", PodTimeline)
        self._known: OrderedDict[SandboxId, SandboxTimeline] = OrderedDict()
        self._changed: dict[SandboxId, None] = {}
        self._long: dict[str, StageClock] = {}

    def of(self, sandbox: SandboxId) -> SandboxTimeline:
        """To time a stage of that sandbox."""
        timeline = self._known.get(sandbox)
        if timeline is None:
            timeline = self._known[sandbox] = self._new(self._shelf.get(sandbox) or PodTimeline())
            timeline.pod = timeline.pod or self._name_of(sandbox)
            timeline.changed = partial(self._note, sandbox, timeline)
        self._known.move_to_end(sandbox)
        return timeline

    def _note(self, sandbox: SandboxId, timeline: SandboxTimeline) -> None:
        self._known.setdefault(sandbox, timeline)  # it may have gone from memory while a verb had it
        self._changed.setdefault(sandbox)

    def find(self, text: str) -> PodStages | None:
        """By id or a beginning of it, NAMESPACE/NAME or NAME; of several the latest. Removed ones too."""
        for label in self._labels():
            by_id = len(text) >= MIN_PREFIX and label.subject.startswith(text)
            if by_id or text in (label.title, label.title.partition("/")[2]):
                return self._told(SandboxId(label.subject))
        return None

    def get(self, sandbox: SandboxId) -> PodTimeline:
        """Of one sandbox; empty for one that is not remembered."""
        return self._told(sandbox).timeline

    async def all(self) -> AsyncIterator[PodStages]:
        """The latest first."""
        for number, label in enumerate(self._labels()):
            if not number % WRITE_AT_ONCE:
                await asyncio.sleep(0)
            yield self._told(SandboxId(label.subject))

    def _labels(self) -> list[Label]:
        """The latest first."""
        labels = {label.subject: label for label in self._shelf.labels()}
        for sandbox, timeline in self._known.items():
            if timeline.began_at:
                labels[sandbox] = _label(sandbox, timeline)
        return sorted(labels.values(), key=lambda label: label.at, reverse=True)

    def _told(self, sandbox: SandboxId) -> PodStages:
        known = self._known.get(sandbox)
        if known is None:
            known = self._new(self._shelf.get(sandbox) or PodTimeline())
        return PodStages(sandbox, known.told())

    async def keep_for_ever(self) -> None:
        """For the daemon's life: write what has changed, and tell what takes too long."""
        pruned_at = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(WRITE_PAUSE)
            self.write()
            self._watch()
            now = asyncio.get_running_loop().time()
            if now - pruned_at > PRUNE_PAUSE:
                pruned_at = now
                self.prune()

    def write(self, most: int = WRITE_AT_ONCE) -> None:
        """Hand to the journal what has changed since; those at work are told as they are now."""
        for sandbox in list(self._changed)[:most]:
            del self._changed[sandbox]
            timeline = self._known[sandbox]
            self._shelf.put(_label(sandbox, timeline), timeline.told())
        idle = [key for key, one in self._known.items() if one.is_idle and key not in self._changed]
        for sandbox in idle[: max(0, len(self._known) - IN_MEMORY)]:
            del self._known[sandbox]

    def write_all(self) -> None:
        """At the end of the daemon."""
        self.write(len(self._changed))

    def prune(self) -> None:
        """Drop those of pods that have gone, but for the latest ones."""
        gone = [
            label.subject for label in self._shelf.labels() if not self._name_of(SandboxId(label.subject))
        ]
        self._shelf.drop(gone[KEPT_ENDED:])

    def _watch(self) -> None:
        """Tell of stages that take unusually long, each once, and of their end."""
        found: dict[str, StageClock] = {}
        for sandbox, timeline in self._known.items():
            for stage in timeline.innermost():
                if stage.age > 1e9 * PATIENT.get(stage.name, LONG_SECONDS):
                    found[f"{timeline.pod or sandbox}: {stage.name} {stage.subject}".rstrip()] = stage
        for subject in self._long.keys() - found.keys():
            self._notices.healed(subject)
        for subject, stage in found.items():
            if subject not in self._long:
                self._notices.warn(subject, f"under way for over {stage.age // 1_000_000_000} s")
        self._long = found


def _label(sandbox: SandboxId, timeline: SandboxTimeline) -> Label:
    return Label(sandbox, timeline.pod, timeline.began_at)
