"""The metrics of pods, from any CRI runtime that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crib.client.errors import NotOffered
from crib.stubs.runtime.v1.api_pb2 import (
    ListMetricDescriptorsRequest,
    ListPodSandboxMetricsRequest,
    MetricDescriptor,
    PodSandboxMetrics,
    StreamPodSandboxMetricsRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from crib.client.connection import Connection


async def descriptors(connection: Connection) -> Sequence[MetricDescriptor]:
    """What each metric means, and the keys of its labels in the order of a sample's values."""
    method = connection.runtime.ListMetricDescriptors
    return (await connection.call(method, ListMetricDescriptorsRequest())).descriptors


async def of_pods(connection: Connection) -> AsyncIterator[PodSandboxMetrics]:
    """Of each ready pod as it is read: as a stream, or as one list where a runtime has no stream.

    A value is a whole number; a timestamp of 0 means that it was read for this call.
    """
    try:
        request = StreamPodSandboxMetricsRequest()
        async for part in connection.stream(connection.runtime.StreamPodSandboxMetrics, request):
            for pod in part.pod_sandbox_metrics:
                yield pod
    except NotOffered:
        method = connection.runtime.ListPodSandboxMetrics
        for pod in (await connection.call(method, ListPodSandboxMetricsRequest())).pod_metrics:
            yield pod
