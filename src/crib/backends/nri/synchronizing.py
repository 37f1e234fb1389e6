"""All pods and containers as the messages that a new plugin is synchronized with. Pure; takes its time.

A message of ttrpc has at most 4 MiB, and a node has more to tell than that. So there are several, and each
but the last says that more follows; the plugin puts them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crib.stubs.nri.v1alpha1 import api_pb2 as pb

PART_BYTES = 1 << 20
"""Of one message, unless a single pod or container has more."""
_ENTRY = 6
"""Bytes of the tag and the length before an entry, at most."""


def parts(
    pods: Iterable[pb.PodSandbox], containers: Iterable[pb.Container]
) -> Iterator[pb.SynchronizeRequest]:
    """At least one, pods first."""
    part, size = pb.SynchronizeRequest(), 0

    def room_for(entry: pb.PodSandbox | pb.Container) -> Iterator[pb.SynchronizeRequest]:
        """The full message, if this entry does not go into it any more."""
        nonlocal part, size
        needed = entry.ByteSize() + _ENTRY
        if size and size + needed > PART_BYTES:
            part.more = True
            yield part
            part, size = pb.SynchronizeRequest(), 0
        size += needed

    for pod in pods:
        yield from room_for(pod)
        part.pods.append(pod)
    for container in containers:
        yield from room_for(container)
        part.containers.append(container)
    yield part
