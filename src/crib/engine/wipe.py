"""Removing by kind, or everything: what a wipe does, and what it would do.

A running daemon removes through the verbs, and keeps what it needs itself. Without a daemon, nothing is
assumed about the node. A pod that cannot be torn down does not stop the removal of others. What belongs to no
row is removed by its id. What all pods share is removed last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from crib.engine.containers.exits import watch_exits
from crib.engine.containers.remove import RemoveContainer
from crib.engine.containers.teardown import teardown_container
from crib.engine.core import Core
from crib.engine.images.catalogue import Catalogue
from crib.engine.images.verbs import ImageVerbs
from crib.engine.networks import Networks
from crib.engine.sandboxes.remove import RemoveSandbox
from crib.engine.sandboxes.teardown import teardown_sandbox
from crib.engine.volumes.verbs import NodeVolumes
from crib.model.container import ContainerRecord, ContainerState
from crib.model.errors import Broken, CribError, WrongState
from crib.model.finding import Wiped, WipeOrder
from crib.model.image import ImageRecord
from crib.model.lifecycle import is_listed
from crib.model.sandbox import SandboxRecord

_NAMED = 5
"""Containers that a refusal names."""


@dataclass(frozen=True, slots=True)
class WipeVerbs:
    """What a wipe removes through."""

    remove_pod: RemoveSandbox
    remove_container: RemoveContainer
    images: ImageVerbs
    networks: Networks
    volumes: NodeVolumes


@dataclass(frozen=True, slots=True)
class _Step:
    kind: str
    name: str
    work: Callable[[], Awaitable[object]]


class _Sweep(Protocol):
    """Of a handler, or of networks: what it removes, or with `dry` would."""

    async def __call__(self, *, dry: bool = ...) -> Sequence[str]: ...


class Wipe:
    """The verb. Each step is reported with its outcome."""

    def __init__(self, core: Core, catalogue: Catalogue, verbs: WipeVerbs) -> None:
        self._core = core
        self._catalogue = catalogue
        self._verbs = verbs

    async def __call__(self, order: WipeOrder) -> AsyncIterator[Wiped]:
        """Beside verbs that are under way. WrongState while containers run, unless they are to be ended."""
        if not (order.dry or order.force):
            self._refuse_running(order)
        core, kinds = self._core, order.kinds
        steps: list[Iterator[_Step]] = []
        if "pods" in kinds:
            steps.append(await self._kept_steps())
            steps.append(_pod_steps(filter(is_listed, core.sandboxes), self._remove_pod))
            steps.append(self._use_steps())
        elif "containers" in kinds:
            steps.append(self._container_steps())
        if "network" in kinds and (shared := core.ports.networks.shared):
            steps.append(iter((_Step("network", shared, self._verbs.networks.remove),)))
        if "volumes" in kinds:
            steps.append(self._volume_steps())
        if "images" in kinds:
            steps.append(self._image_steps())
        async for wiped in _taken(steps, dry=order.dry):
            yield wiped
        async for wiped in self._layers(order):
            yield wiped

    async def offline(self, order: WipeOrder) -> AsyncIterator[Wiped]:
        """Of a node on which no daemon runs, whatever is missing there or damaged, and whatever runs."""
        core, kinds = self._core, order.kinds
        if not order.dry:
            for name, handler in core.ports.handlers.items():
                core.keeper.serve(f"exits of {name}", watch_exits(core, handler.containers))
        steps: list[Iterator[_Step]] = []
        if "pods" in kinds:
            steps.append(await self._kept_steps())
            steps += [
                _pod_steps(core.sandboxes, self._tear_down),
                self._orphan_steps(),
                self._use_steps(),
            ]
        elif "containers" in kinds:
            steps.append(self._container_steps())
        async for wiped in _taken(steps, dry=order.dry):
            yield wiped
        if "pods" in kinds:
            async for wiped in self._leftovers(order):
                yield wiped
        async for wiped in _taken(self._shared_steps(order), dry=order.dry):
            yield wiped
        async for wiped in self._layers(order):
            yield wiped

    def _refuse_running(self, order: WipeOrder) -> None:
        running = [row for row in self._core.containers if row.state is ContainerState.RUNNING]
        if running and order.kinds & {"pods", "containers"}:
            some = ", ".join(map(_container_name, running[:_NAMED]))
            raise WrongState(f"containers run ({len(running)}): {some}; they are ended by force only")

    async def _kept_steps(self) -> Iterator[_Step]:
        """First, or what is removed would be made again."""
        kept = self._core.ports.kept
        orders = [pod.order for pod in await kept.all_kept()]
        return iter(
            [
                _Step(
                    "pods",
                    f"kept {one.namespace}/{one.name}",
                    partial(kept.leave_alone, one.namespace, one.name),
                )
                for one in orders
            ]
        )

    async def _remove_pod(self, row: SandboxRecord) -> None:
        await self._verbs.remove_pod(row.id)

    async def _tear_down(self, row: SandboxRecord) -> None:
        if failures := await teardown_sandbox(self._core, row, "wiped"):
            raise Broken("; ".join(failures))

    def _container_steps(self) -> Iterator[_Step]:
        for row in filter(is_listed, self._core.containers):
            yield _Step("containers", _container_name(row), partial(self._verbs.remove_container, row.id))

    def _orphan_steps(self) -> Iterator[_Step]:
        """Containers whose pod is not on record."""
        for row in self._core.containers:
            if self._core.sandboxes.get(row.sandbox_id) is None:
                work = partial(teardown_container, self._core, row)
                yield _Step("containers", _container_name(row), work)

    def _use_steps(self) -> Iterator[_Step]:
        """Volumes of pods. Those that pods own go with them, the others stay."""
        for uid, pod in self._verbs.volumes.users().items():
            yield _Step("pods", f"volumes of pod {pod}", partial(self._verbs.volumes.unpublish, uid))

    def _volume_steps(self) -> Iterator[_Step]:
        for name, remove in self._verbs.volumes.removals():
            yield _Step("volumes", name, remove)

    def _image_steps(self) -> Iterator[_Step]:
        for row in self._catalogue:
            yield _Step("images", _image_name(row), partial(self._verbs.images.remove, row.id))

    def _shared_steps(self, order: WipeOrder) -> list[Iterator[_Step]]:
        """What all pods share, where none of them is left to need it; and images."""
        core, ports, kinds = self._core, self._core.ports, order.kinds
        will_be_empty = "pods" in kinds and (order.dry or not len(core.sandboxes))
        steps: list[_Step] = []
        if "network" in kinds and (shared := ports.networks.shared):
            remove = ports.networks.dismantle if will_be_empty else self._verbs.networks.remove
            steps.append(_Step("network", shared, remove))
        if will_be_empty:
            steps += [
                _Step("pods", f"mounts and cgroup of handler {name}", handler.dismantle)
                for name, handler in ports.handlers.items()
            ]
            steps.append(_Step("pods", "mounts of layers", ports.images.dismantle))
        volumes = self._volume_steps() if "volumes" in kinds else iter(())
        return [iter(steps), volumes, self._image_steps() if "images" in kinds else iter(())]

    async def _leftovers(self, order: WipeOrder) -> AsyncIterator[Wiped]:
        """What belongs to no row; with a damaged database that is everything."""
        ports = self._core.ports
        attached = {row.id for row in self._core.sandboxes if not row.released}
        sweeps: list[tuple[str, _Sweep]] = [
            (f"handler {name}", partial(handler.sweep, self._core.known_ids))
            for name, handler in ports.handlers.items()
        ]
        sweeps.append(("networks", partial(ports.networks.sweep, attached)))
        sweeps.append(("volumes", self._verbs.volumes.sweep))
        for part, sweep in sweeps:
            for wiped in await _swept(part, sweep, dry=order.dry):
                yield wiped

    async def _layers(self, order: WipeOrder) -> AsyncIterator[Wiped]:
        """Those that no image needs. Those of images that are removed went with them."""
        if "layers" not in order.kinds:
            return
        found = await self._verbs.images.unreferenced()
        if not order.dry:
            await self._verbs.images.sweep()
        for layer in found:
            yield Wiped("layers", layer)


def _pod_steps(
    rows: Iterable[SandboxRecord], remove: Callable[[SandboxRecord], Awaitable[None]]
) -> Iterator[_Step]:
    for row in rows:
        name = f"{row.config.metadata.namespace}/{row.config.metadata.name} {row.id}"
        yield _Step("pods", name, partial(remove, row))


async def _swept(part: str, sweep: _Sweep, *, dry: bool) -> list[Wiped]:
    """What a sweep has removed, or would; where it could not, with its problem. That keeps no other back."""
    names: Sequence[str] = ()
    problem = ""
    try:
        names = await sweep(dry=True)
        if not dry:
            await sweep()
    except (CribError, OSError) as error:
        problem = str(error)
        names = names or (f"what belongs to no record, of {part}",)
    return [Wiped("pods", name, problem) for name in names]


async def _taken(steps: list[Iterator[_Step]], *, dry: bool) -> AsyncIterator[Wiped]:
    """One after the other, each list made up when the one before is done; a failure keeps no other back."""
    for some in steps:
        for step in some:
            problem = ""
            if not dry:
                try:
                    await step.work()
                except (CribError, OSError) as error:  # of a disk that does not answer, or not well
                    problem = str(error)
            yield Wiped(step.kind, step.name, problem)


def _container_name(row: ContainerRecord) -> str:
    return f"{row.config.name} {row.id}"


def _image_name(row: ImageRecord) -> str:
    return next(iter((*row.tags, *row.digests)), row.id)
