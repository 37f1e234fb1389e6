"""`crib df`: what takes how much of the disk, and what of it could be had back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.forms import Format
from crib.cli.output import as_dict, document, short_id, size, table
from crib.cli.usage.columns import UNKNOWN
from crib.client import node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from crib.cli.session import CliSession
    from crib.cli.usage_options import DfOptions
    from crib.stubs.node.v1.node_pb2 import ContainerUse, DiskUsageResponse

SUMMARY = ("WHAT", "COUNT", "SIZE", "RECLAIMABLE")
IMAGES = ("IMAGE", "ID", "SIZE", "OWN", "SHARED", "CONTAINERS")
PODS = ("POD", "CONTAINER", "STATE", "WRITABLE", "FILES", "LOGS", "IMAGE")


@dataclass(frozen=True, slots=True)
class Total:
    """A line of the summary; None for a size that the disk did not tell in time."""

    what: str
    count: int
    size: int | None
    reclaimable: int = 0


async def df(session: CliSession, options: DfOptions) -> None:
    """Show the summary, or with --verbose images and pods too; NotOffered without crib's Node service."""
    async with session.connect() as connection:
        found = await node.disk_usage(connection)
    form = Format.JSON if options.json else options.output
    if form is not Format.TABLE:
        document(as_dict(found), form)
        return
    table(SUMMARY, list(_summary(found)))
    if options.verbose:
        print()
        table(IMAGES, list(_images(found)))
        print()
        table(PODS, list(_pods(found)))


def totals(found: DiskUsageResponse) -> list[Total]:
    """What could be had back is what removing unused images and ended containers would give."""
    layers, containers = found.layers, found.containers
    ended = [one for one in containers if one.ended]
    return [
        Total(
            "layers",
            len(layers),
            sum(one.bytes for one in layers),
            sum(one.bytes for one in layers if one.reclaimable),
        ),
        Total("half-made layers", 0, found.half_made_bytes),
        Total("writable layers", len(containers), _writable(containers), _writable(ended) or 0),
        Total("logs", sum(one.HasField("log_bytes") for one in containers), _logs(containers), _logs(ended)),
        Total("records", len(found.records), sum(found.records.values())),
    ]


def _writable(containers: Iterable[ContainerUse]) -> int | None:
    if any(not one.HasField("writable_bytes") for one in containers):
        return None
    return sum(one.writable_bytes for one in containers)


def _logs(containers: Iterable[ContainerUse]) -> int:
    return sum(one.log_bytes for one in containers)


def _summary(found: DiskUsageResponse) -> Iterator[Sequence[str]]:
    lines = totals(found)
    for line in lines:
        shown = UNKNOWN if line.size is None else size(line.size)
        yield line.what, str(line.count or UNKNOWN), shown, size(line.reclaimable)
    known = sum(line.size or 0 for line in lines)
    yield "together", "", size(known), size(sum(line.reclaimable for line in lines))
    yield "free on the disk", "", f"{size(found.free_bytes)} of {size(found.total_bytes)}", ""


def _images(found: DiskUsageResponse) -> Iterator[Sequence[str]]:
    for image in found.images:
        name = next(iter(image.names), "<none>")
        shared = image.bytes - image.own_bytes
        containers = str(image.containers) + (", pinned" if image.pinned else "")
        yield (
            name,
            short_id(image.image_id),
            size(image.bytes),
            size(image.own_bytes),
            size(shared),
            containers,
        )


def _pods(found: DiskUsageResponse) -> Iterator[Sequence[str]]:
    """A line for each pod with its sums, then one for each of its containers."""
    names = {image.image_id: next(iter(image.names), "") for image in found.images}
    by_pod: dict[str, list[ContainerUse]] = defaultdict(list)
    for one in found.containers:
        by_pod[one.pod_sandbox_id].append(one)
    for pod_id, containers in sorted(by_pod.items(), key=lambda one: one[1][0].pod):
        label, writable = containers[0].pod or short_id(pod_id), _writable(containers)
        shown = UNKNOWN if writable is None else size(writable)
        files = sum(one.writable_inodes for one in containers)
        yield label, UNKNOWN, UNKNOWN, shown, str(files), size(_logs(containers)), UNKNOWN
        for one in containers:
            yield (
                label,
                one.name,
                "Exited" if one.ended else UNKNOWN,
                size(one.writable_bytes) if one.HasField("writable_bytes") else UNKNOWN,
                str(one.writable_inodes) if one.HasField("writable_inodes") else UNKNOWN,
                size(one.log_bytes) if one.HasField("log_bytes") else UNKNOWN,
                names.get(one.image_id) or short_id(one.image_id),
            )
