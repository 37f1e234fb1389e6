"""What containers keep on disk: measured when somebody asks, and not again too soon.

To measure is to walk through a tree, which takes 2 µs a file while its inodes are in memory, and as long as
the disk wants otherwise. So no question waits long for it: what takes longer goes on in its thread, and is
told to whoever asks next. Until then the figure before holds, which says how old it is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from crib.host.files import disk_usage
from crib.host.threads import OURS, Job, Overdue
from crib.model.ids import ContainerId
from crib.model.image import FilesystemUsage
from crib.model.paths import Paths

FRESH = 10.0
"""Seconds for which a figure counts: the kubelet asks every 10 to 15 s."""
SHARE = 50
"""A tree that took a second to measure is left alone for so many seconds."""
LONG = 0.05
"""Seconds. A tree that took longer last time is measured apart from the others."""
WAIT = 2.0
"""Seconds that a question waits for the others, which nobody has measured yet or which are small."""
WAIT_FOR_LONG = 0.02
"""Seconds that it waits for the large ones."""
MAX_INODES = 2_000_000
"""What is larger is told as far as it was counted: without a figure it would escape the kubelet's limits."""


@dataclass(frozen=True, slots=True)
class _Size:
    usage: FilesystemUsage
    at: float
    took: float

    def is_fresh(self, now: float) -> bool:
        return now - self.at < max(FRESH, SHARE * self.took)


@dataclass(slots=True)
class _Walk:
    """Trees that one job measures."""

    containers: tuple[ContainerId, ...]
    has_begun: bool = False


@dataclass(slots=True)
class LayerSizes:
    """Of writable layers, with the directories behind the image's VOLUMEs. Safe to use by threads."""

    paths: Paths
    _known: dict[ContainerId, _Size] = field(default_factory=dict)
    _under_way: set[ContainerId] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def of(self, containers: Iterable[ContainerId]) -> Mapping[ContainerId, FilesystemUsage]:
        """What is known of these; measured first where that is old. None of them where it takes too long."""
        wanted = tuple(containers)
        with self._lock:
            now = time.monotonic()
            due = [each for each in wanted if each not in self._under_way and not self._is_fresh(each, now)]
            self._under_way.update(due)
            long = [each for each in due if self._took(each) > LONG]
        await self._measure(set(due).difference(long), WAIT)
        await self._measure(long, WAIT_FOR_LONG)
        with self._lock:
            return {each: self._known[each].usage for each in wanted if each in self._known}

    def forget(self, container: ContainerId) -> None:
        """It is gone."""
        with self._lock:
            self._known.pop(container, None)
            self._under_way.discard(container)

    def _is_fresh(self, container: ContainerId, now: float) -> bool:
        known = self._known.get(container)
        return known is not None and known.is_fresh(now)

    def _took(self, container: ContainerId) -> float:
        known = self._known.get(container)
        return 0.0 if known is None else known.took

    async def _measure(self, containers: Collection[ContainerId], seconds: float) -> None:
        """In a thread, which goes on when the time is over."""
        if not containers:
            return
        walk = _Walk(tuple(containers))
        what = f"measuring the writable layers of {len(walk.containers)} containers"
        try:
            with contextlib.suppress(Overdue):
                await OURS.run(Job(what, self.paths.writable_layers, seconds), self._walk, walk)
        finally:
            if not walk.has_begun:
                self._give_back(walk.containers)

    def _give_back(self, containers: Iterable[ContainerId]) -> None:
        with self._lock:
            self._under_way.difference_update(containers)

    def _walk(self, walk: _Walk) -> None:
        walk.has_begun = True
        left = list(walk.containers)
        try:
            while left:
                size = self._size(left[-1])
                self._keep(left.pop(), size)
        finally:
            self._give_back(left)

    def _keep(self, container: ContainerId, size: _Size | None) -> None:
        with self._lock:
            if container in self._under_way:  # or it was forgotten meanwhile
                self._under_way.discard(container)
                if size is not None:
                    self._known[container] = size

    def _size(self, container: ContainerId) -> _Size | None:
        """None where the disk does not tell."""
        began = time.monotonic()
        trees = [self.paths.declared_volumes(container)]
        if not os.path.exists(self.paths.disk(container)):  # to be asked of whoever has it mounted
            # A link where somebody else has mounted the root.
            trees.append(os.path.realpath(f"{self.paths.writable_layer(container)}/upper"))
        try:
            found = [disk_usage(tree, MAX_INODES) for tree in trees]
        except OSError:
            return None
        usage = FilesystemUsage(
            self.paths.writable_layers,
            sum(tree.bytes for tree in found),
            sum(tree.inodes for tree in found),
            time.time_ns(),
        )
        now = time.monotonic()
        return _Size(usage, now, now - began)
