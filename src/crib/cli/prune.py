"""`crib prune` and `crib image prune`: remove what nothing needs, and say how much disk that gave back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.image_choice import is_dangling, split_filter, with_times
from crib.cli.output import short_id, size, tell
from crib.cli.session import CommandError, say
from crib.cli.times import moment
from crib.client import ClientError, images, lookup
from crib.client.image_use import image_users
from crib.client.workloads import keeping
from crib.client.workloads.removal import remove_pod
from crib.manifest.plan import Dirs
from crib.stubs.runtime.v1.api_pb2 import (
    CONTAINER_EXITED,
    SANDBOX_READY,
    ImageFsInfoRequest,
    RemoveContainerRequest,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from crib.cli.image_options import ImagePruneOptions, PruneOptions
    from crib.cli.session import CliSession
    from crib.client import Connection
    from crib.stubs.runtime.v1.api_pb2 import Container, Image, PodSandbox


ENDED = ("Succeeded", "Failed")
"""Phases of kept pods of which nothing will run again. The others are started again, or wait to be."""


@dataclass(frozen=True, slots=True)
class _Removal:
    """One thing to remove."""

    what: str
    act: Callable[[], Awaitable[None]]
    most: int = 0
    """Bytes that it gives back at most: layers may be shared with images that stay."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """What `--filter` leaves over."""

    before: int = 0
    """Nanoseconds since the epoch; 0: any time."""
    labels: tuple[tuple[bool, str, str | None], ...] = ()
    """Whether it must be there, key, value (None: any)."""

    def is_old(self, at: int) -> bool:
        return not self.before or 0 < at < self.before

    def fits(self, pod: PodSandbox) -> bool:
        return self.is_old(pod.created_at) and all(
            ((key in pod.labels) if value is None else pod.labels.get(key) == value) is wanted
            for wanted, key, value in self.labels
        )


async def prune_images(session: CliSession, options: ImagePruneOptions) -> None:
    """Remove unused images."""
    limits = _limits(options.filters or (), ("until",))
    async with session.connect() as connection:
        removals = await _unused_images(connection, limits, every=options.every)
        await _carry_out(connection, removals, dry_run=options.dry_run, yes=options.yes)


async def prune(session: CliSession, options: PruneOptions) -> None:
    """Remove stopped pods, replaced containers and unused images."""
    limits = _limits(options.filters or (), ("until", "label", "label!"))
    dirs = Dirs(session.pods_dir)
    async with session.connect() as connection:
        everything, containers = await asyncio.gather(lookup.pods(connection), lookup.containers(connection))
        busy = {pod.uid for pod in await keeping.all_kept(connection) if pod.phase not in ENDED}
        pods = [pod for pod in everything if pod.metadata.uid not in busy]
        stopped = _stopped(pods, containers, limits)
        doomed = [_pod_removal(connection, pod, dirs) for pod in stopped]
        gone = {pod.id for pod in stopped}
        staying = {pod.id for pod in pods if pod.id not in gone and limits.fits(pod)}
        replaced = [one for one in lookup.replaced(containers) if one.pod_sandbox_id in staying]
        doomed += [_container_removal(connection, one, pods) for one in replaced if _may_go(one, pods)]
        # Those of the doomed containers are free by then, but a first look must not say so: they may fail.
        freed = {one.id for one in containers if one.pod_sandbox_id in gone} | {one.id for one in replaced}
        unused = await _unused_images(connection, limits, every=options.every, without=frozenset(freed))
        await _carry_out(connection, [*doomed, *unused], dry_run=options.dry_run, yes=options.yes)
        kept = sum(lookup.is_kubelets(pod) and pod.state != SANDBOX_READY for pod in pods)
    if kept:
        say(f"left alone: {kept} stopped {'pod' if kept == 1 else 'pods'} of a kubelet")


def _limits(filters: Sequence[str], allowed: Sequence[str]) -> _Limits:
    before = 0
    labels: list[tuple[bool, str, str | None]] = []
    for text in filters:
        key, value = split_filter(text, allowed)
        if key == "until":
            before = moment(value, "--filter until", time.time_ns())
        else:
            name, equals, wanted = value.partition("=")
            labels.append((key == "label", name, wanted if equals else None))
    return _Limits(before, tuple(labels))


def _stopped(
    pods: Sequence[PodSandbox], containers: Sequence[Container], limits: _Limits
) -> list[PodSandbox]:
    """Pods of which nothing runs any more, but those of a kubelet."""
    own: dict[str, list[Container]] = defaultdict(list)
    for container in containers:
        own[container.pod_sandbox_id].append(container)
    return [
        pod
        for pod in pods
        if not lookup.is_kubelets(pod) and lookup.has_ended(pod, own[pod.id]) and limits.fits(pod)
    ]


def _may_go(container: Container, pods: Sequence[PodSandbox]) -> bool:
    return container.state == CONTAINER_EXITED and not any(
        lookup.is_kubelets(pod) for pod in pods if pod.id == container.pod_sandbox_id
    )


def _pod_removal(connection: Connection, pod: PodSandbox, dirs: Dirs) -> _Removal:
    async def act() -> None:
        await remove_pod(connection, pod, dirs)

    return _Removal(f"pod {lookup.pod_label(pod)}", act)


def _container_removal(connection: Connection, container: Container, pods: Sequence[PodSandbox]) -> _Removal:
    async def act() -> None:
        request = RemoveContainerRequest(container_id=container.id)
        await connection.call(connection.runtime.RemoveContainer, request)

    return _Removal(f"container {lookup.container_label(container, pods)}", act)


async def _unused_images(
    connection: Connection, limits: _Limits, *, every: bool, without: frozenset[str] = frozenset()
) -> list[_Removal]:
    """Images that no container uses, those in `without` not counted."""
    found, users = await asyncio.gather(images.list_images(connection), image_users(connection))
    unused = [
        image
        for image in found
        if not image.pinned
        and (every or is_dangling(image))
        and all(user.container.id in without for user in users.of(image))
    ]
    if limits.before:
        unused = [dated.image for dated in await with_times(connection, unused) if limits.is_old(dated.at)]
    return [_image_removal(connection, image) for image in unused]


def _image_removal(connection: Connection, image: Image) -> _Removal:
    names = ", ".join(image.repo_tags) or ", ".join(image.repo_digests) or "without a name"

    async def act() -> None:
        if any((await image_users(connection)).of(image)):
            raise ClientError("a container uses it by now")
        await images.remove(connection, image.id)

    return _Removal(f"image {short_id(image.id)} ({names})", act, image.size)


async def _carry_out(
    connection: Connection, removals: Sequence[_Removal], *, dry_run: bool, yes: bool
) -> None:
    """Ask, remove, and say what that gave. Continues after a failure, and fails at the end."""
    if not removals:
        tell("nothing to remove")
        return
    most = sum(removal.most for removal in removals)
    at_most = f", at most {size(most)} of images" if most else ""
    asks = not yes and not dry_run and sys.stdin.isatty()
    if dry_run or asks:
        for removal in removals:
            tell(f"would remove {removal.what}")
        tell(f"{_things(len(removals))}{at_most}")
    if dry_run:
        return
    if asks and not _agrees():
        raise CommandError("nothing was removed")
    before = await _used(connection)
    failed = 0
    for removal in removals:
        try:
            await removal.act()
        except (ClientError, OSError) as error:
            say(f"crib: {removal.what} stays: {error}")
            failed += 1
        else:
            tell(f"removed {removal.what}")
    tell(f"freed {size(max(0, before - await _used(connection)))}")
    if failed:
        raise CommandError(f"{failed} of {_things(len(removals))} were not removed")


def _things(number: int) -> str:
    return f"{number} {'thing' if number == 1 else 'things'}"


def _agrees() -> bool:
    print("Remove all of this? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _used(connection: Connection) -> int:
    """Bytes of layers and of what containers have written."""
    reply = await connection.call(connection.image.ImageFsInfo, ImageFsInfoRequest())
    places = {
        place.fs_id.mountpoint: place.used_bytes.value
        for place in (*reply.image_filesystems, *reply.container_filesystems)
    }
    return sum(places.values())
