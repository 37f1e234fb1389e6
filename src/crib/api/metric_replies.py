"""Replies of the metrics calls, encoded without a message for each sample.

A hundred pods have some seven thousand samples, and what fills them are the labels that they share. To join
bytes takes a third of the time that messages of protobuf take. Field numbers are those of the CRI (Metric,
ContainerMetrics, PodSandboxMetrics); in both replies the pods are field 1.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import TypeAlias

from crib.api.encoded_fields import encoded_field, varint
from crib.model.container import ContainerRecord
from crib.model.metric_families import families_of
from crib.model.metrics import NETWORK_CONTAINER, Metered, MetricFamily, Of, PodMetrics
from crib.model.sandbox import SandboxRecord
from crib.stubs.runtime.v1 import api_pb2 as pb

MAX_LABEL = 1024
"""Bytes of one label's value; what is longer is cut."""
_ELEMENT = _POD_ID = _CONTAINER_ID = b"\x0a"
_METRICS, _CONTAINERS = b"\x12", b"\x1a"
_NAME, _TIMESTAMP, _KIND, _LABEL, _VALUE = b"\x0a", b"\x10", b"\x18", b"\x22", b"\x2a"
_UINT64 = b"\x08"
_BEFORE_VALUE = tuple(_VALUE + bytes((length + 1,)) + _UINT64 for length in range(11))
"""By the length of the number, which is 10 bytes at most."""
_SMALL = 128
# A number that is 0 is left out, as proto3 does.
_SMALL_VALUES = (_VALUE + b"\x00", *(_BEFORE_VALUE[1] + bytes((value,)) for value in range(1, _SMALL)))
LENGTHS_KEPT = 128
"""Lengths of samples for which a family's beginning is kept."""
LABELS_KEPT = 4096
"""Encoded labels: of pods and containers, and families' own: names of devices, interfaces and kinds."""


class MetricReplies:
    """Of the chosen groups of families."""

    def __init__(self, groups: Collection[str], *, is_kept: bool) -> None:
        """Readings that are kept for a while say when they were made; others are of now, which is 0."""
        chosen = families_of(groups)
        self._is_kept = is_kept
        encoded = [(family, _Beginnings(family)) for family in chosen]
        self._of_containers = tuple(each for each in encoded if each[0].of is not Of.POD)
        self._of_cgroups = tuple(each for each in encoded if each[0].of is Of.CGROUP)
        self._of_pods = tuple(each for each in encoded if each[0].of is Of.POD)
        self.descriptors = pb.ListMetricDescriptorsResponse(
            descriptors=[
                pb.MetricDescriptor(name=family.name, help=family.help, label_keys=family.labels)
                for family in chosen
            ]
        ).SerializeToString()

    def element(self, metrics: PodMetrics) -> bytes:
        """A pod as an element of either reply's list."""
        sandbox, pod = metrics.sandbox, metrics.pod
        shared = _labels(sandbox, pod, container=NETWORK_CONTAINER, name=sandbox.id)
        body = [
            encoded_field(_POD_ID, sandbox.id.encode()),
            *self._metrics(pod, self._of_cgroups, _labels(sandbox, pod)),
            *self._metrics(pod, self._of_pods, shared),
        ]
        for record, metered in metrics.containers:
            own = self._metrics(metered, self._of_containers, _container_labels(sandbox, record, metered))
            inner = b"".join((encoded_field(_CONTAINER_ID, record.id.encode()), *own))
            body += (_CONTAINERS, varint(len(inner)), inner)
        # To copy 16 KiB once more takes less than to add up the lengths of 200 pieces.
        return encoded_field(_ELEMENT, b"".join(body))

    def _metrics(self, metered: Metered, families: Iterable[_Family], base: bytes) -> list[bytes]:
        """Pieces of all samples, one after the other."""
        common = base + _TIMESTAMP + varint(metered.at) if self._is_kept else base
        size = len(common)
        pieces: list[bytes] = []
        path, part = None, None
        for family, beginnings in families:
            if family.path is not path:
                path, part = family.path, metered.part(family.path)
            if part is None:
                continue
            value = family.value(part)
            if isinstance(value, int):
                tail = _SMALL_VALUES[value] if value < _SMALL else _value(value)
                pieces += (beginnings[size + len(tail)], common, tail)
            elif value is not None:
                for labels, one in value:
                    tail = _encoded(labels) + (_SMALL_VALUES[one] if one < _SMALL else _value(one))
                    pieces += (beginnings[size + len(tail)], common, tail)
        return pieces


class _Beginnings(dict[int, bytes]):
    """What samples of a family begin with, by the length of what follows: few pods differ in that."""

    def __init__(self, family: MetricFamily) -> None:
        super().__init__()
        kind = _KIND + varint(family.kind) if family.kind else b""
        self._head = encoded_field(_NAME, family.name.encode()) + kind

    def __missing__(self, length: int) -> bytes:
        made = _METRICS + varint(len(self._head) + length) + self._head
        if len(self) < LENGTHS_KEPT:
            self[length] = made
        return made


_Family: TypeAlias = tuple[MetricFamily, _Beginnings]


def _container_labels(sandbox: SandboxRecord, record: ContainerRecord, metered: Metered) -> bytes:
    image = record.config.user_specified_image or record.config.image
    return _labels(sandbox, metered, container=record.config.name, image=image, name=record.id)


def _labels(
    sandbox: SandboxRecord, metered: Metered, *, container: str = "", image: str = "", name: str = ""
) -> bytes:
    """Values of BASE_LABELS, in their order."""
    metadata = sandbox.config.metadata
    return _encoded((container, metered.cgroup.path, image, name, metadata.namespace, metadata.name))


@functools.lru_cache(LABELS_KEPT)
def _encoded(values: tuple[str, ...]) -> bytes:
    return b"".join(map(_label, values))


def _value(value: int) -> bytes:
    """A UInt64Value as the field `value`, of at least _SMALL."""
    number = varint(value)
    return _BEFORE_VALUE[len(number)] + number


def _label(text: str) -> bytes:
    """A value as the protocol wants it: whole characters, in UTF-8, of bounded length."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > MAX_LABEL:
        raw = raw[:MAX_LABEL].decode("utf-8", "ignore").encode()
    return encoded_field(_LABEL, raw)
