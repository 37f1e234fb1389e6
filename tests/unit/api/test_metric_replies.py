"""Metrics joined from encoded parts are the same messages as protobuf would make."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crib.api import metric_replies
from crib.api.metric_replies import MAX_LABEL, MetricReplies
from crib.model.metric_families import FAMILIES, families_of
from crib.model.metrics import BASE_LABELS, GROUPS, Metered, MetricFamily, Of, PodMetrics
from crib.model.sandbox import PodMetadata, SandboxConfig, SandboxRecord
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.unit.api.fake_node import container, sandbox
from tests.unit.metered import CONTAINER, samples

POD = CONTAINER._replace(cgroup=CONTAINER.cgroup._replace(path="/pods"), writable_layer=None, room=None)
METRICS = PodMetrics(sandbox(), POD, ((container(), CONTAINER), (container(2), CONTAINER)))
IMAGE = "busybox"


def decoded(element: bytes) -> pb.PodSandboxMetrics:
    message = pb.ListPodSandboxMetricsResponse.FromString(element)
    assert pb.StreamPodSandboxMetricsResponse.FromString(element).pod_sandbox_metrics == message.pod_metrics
    (pod,) = message.pod_metrics
    return pod


def encoded_by_protobuf(
    metered: Metered, families: Sequence[MetricFamily], base: Sequence[str], timestamp: int
) -> list[pb.Metric]:
    return [
        pb.Metric(
            name=family.name,
            timestamp=timestamp,
            metric_type=pb.MetricType.ValueType(family.kind),
            label_values=[*base, *labels],
            value=pb.UInt64Value(value=value),
        )
        for family, labels, value in samples(metered, families)
    ]


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("groups", [GROUPS, ("cpu", "network"), ()])
def test_a_pod_is_encoded_as_protobuf_would(groups: Sequence[str], is_kept: bool) -> None:
    at = CONTAINER.at if is_kept else 0
    chosen = families_of(groups)
    of_cgroups = [family for family in chosen if family.of is Of.CGROUP]
    of_pods = [family for family in chosen if family.of is Of.POD]
    of_containers = [family for family in chosen if family.of is not Of.POD]
    pod = METRICS.sandbox
    wanted = pb.PodSandboxMetrics(
        pod_sandbox_id=pod.id,
        metrics=[
            *encoded_by_protobuf(POD, of_cgroups, ("", "/pods", "", "", "space", "pod1"), at),
            *encoded_by_protobuf(POD, of_pods, ("POD", "/pods", "", pod.id, "space", "pod1"), at),
        ],
        container_metrics=[
            pb.ContainerMetrics(
                container_id=record.id,
                metrics=encoded_by_protobuf(
                    metered,
                    of_containers,
                    (record.config.name, "/pods/a", IMAGE, record.id, "space", "pod1"),
                    at,
                ),
            )
            for record, metered in METRICS.containers
        ],
    )
    assert decoded(MetricReplies(groups, is_kept=is_kept).element(METRICS)) == wanted


def test_descriptors_have_the_labels_in_the_order_of_the_samples_values() -> None:
    replies = MetricReplies(GROUPS, is_kept=False)
    listed = pb.ListMetricDescriptorsResponse.FromString(replies.descriptors).descriptors
    assert [tuple(one.label_keys) for one in listed] == [(*BASE_LABELS, *f.own_labels) for f in FAMILIES]
    assert [(one.name, one.help) for one in listed] == [(f.name, f.help) for f in FAMILIES]
    keys = {one.name: one.label_keys for one in listed}
    pod = decoded(replies.element(METRICS))
    for metric in (*pod.metrics, *(m for c in pod.container_metrics for m in c.metrics)):
        assert len(metric.label_values) == len(keys[metric.name])


def named(name: str) -> SandboxRecord:
    return sandbox(config=SandboxConfig(PodMetadata(name, "uid", "space")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ('grün\n"', 'grün\n"'),
        ("x" * 2000, "x" * MAX_LABEL),
        ("x" * (MAX_LABEL - 1) + "ü", "x" * (MAX_LABEL - 1)),
        ("a\udc80b", "a?b"),
    ],
)
def test_a_labels_value_is_whole_characters_in_utf8_of_bounded_length(name: str, value: str) -> None:
    pod = decoded(MetricReplies((), is_kept=False).element(PodMetrics(named(name), POD, ())))
    assert pod.metrics[0].label_values[-1] == value


def test_values_of_any_size_are_told() -> None:
    edges = (value for bits in (7, 10, 14, 21, 28, 35) for value in ((1 << bits) - 1, 1 << bits))
    for seconds in (0, 1, 300, *edges, (1 << 64) - 1):
        at = seconds * 1_000_000_000
        pod = decoded(
            MetricReplies((), is_kept=False).element(PodMetrics(named("a"), POD._replace(at=at), ()))
        )
        assert pod.metrics[0].value.value == seconds
        assert pod.metrics[0].HasField("value")


def test_samples_of_pods_alike_begin_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = MetricReplies(GROUPS, is_kept=False)
    first = replies.element(METRICS)

    def made_again(length: int) -> bytes:
        raise AssertionError(length)

    monkeypatch.setattr(metric_replies._Beginnings, "__missing__", lambda _, length: made_again(length))
    assert replies.element(METRICS) == first
