"""The calls of runtime.v1.RuntimeService that tell the metrics of pods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from crib.api.calls import Answer, Call, Read, Stream, Verb, nothing
from crib.api.list_replies import parts
from crib.api.metric_replies import MetricReplies
from crib.engine.node import Node
from crib.model.settings import StatisticsSettings
from crib.stubs.runtime.v1 import api_pb2 as pb
from crib.tasks.lanes import stand_back

STRETCH = 10
"""Pods that are encoded in one go, which takes about a millisecond."""


class MetricsCalls:
    """What there is to know, and what it is now."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._made: tuple[StatisticsSettings, MetricReplies] | None = None
        """For the settings that they were made for."""

    def calls(self) -> dict[str, Call]:
        """Every call by its name."""
        return {
            "ListMetricDescriptors": Read(
                pb.ListMetricDescriptorsRequest, nothing, lambda _: self._replies.descriptors
            ),
            "ListPodSandboxMetrics": Verb(pb.ListPodSandboxMetricsRequest, nothing, self._list),
            "StreamPodSandboxMetrics": Stream(pb.StreamPodSandboxMetricsRequest, nothing, self._stream),
        }

    @property
    def _replies(self) -> MetricReplies:
        settings = self._node.settings.statistics
        if self._made is None or self._made[0] is not settings:
            made = MetricReplies(settings.pod_metrics, is_kept=settings.pod_metrics_period > 0)
            self._made = settings, made
        return self._made[1]

    async def _list(self, _: None) -> Answer:
        return b"".join([element async for stretch in self._elements() for element in stretch])

    async def _stream(self, _: None) -> AsyncIterator[bytes]:
        """Parts, as they have been read."""
        async for stretch in self._elements():
            for part in parts(stretch):
                yield part

    async def _elements(self) -> AsyncIterator[list[bytes]]:
        await stand_back()
        async for batch in self._node.metrics.pods(self._node.sandboxes.list()):
            for start in range(0, len(batch), STRETCH):
                await asyncio.sleep(0)
                yield list(map(self._replies.element, batch[start : start + STRETCH]))
