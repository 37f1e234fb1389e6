"""ListMetricDescriptors and ListPodSandboxMetrics."""

from __future__ import annotations

from collections import Counter

from crib.conform.case import Level, case
from crib.conform.expect import equal, true
from crib.conform.trial import Trial
from crib.stubs.runtime.v1 import api_pb2 as pb

_KEP = "KEP-2371: cAdvisor's metrics from CRI"


async def _descriptors(trial: Trial) -> dict[str, list[str]]:
    request = pb.ListMetricDescriptorsRequest()
    reply = await trial.call(trial.runtime.ListMetricDescriptors, request)
    return {one.name: list(one.label_keys) for one in reply.descriptors}


@case(
    "ListMetricDescriptors",
    Level.OPTIONAL,
    _KEP,
    "ListMetricDescriptorsResponse.descriptors",
    "MetricDescriptor.name,help,label_keys",
)
async def each_metric_is_described_once(trial: Trial) -> None:
    """Every metric has a name, a help text and labels, and is described once."""
    reply = await trial.call(trial.runtime.ListMetricDescriptors, pb.ListMetricDescriptorsRequest())
    true("ListMetricDescriptors", reply.descriptors, "at least one", reply)
    twice = [name for name, count in Counter(one.name for one in reply.descriptors).items() if count > 1]
    equal("ListMetricDescriptors: names that occur twice", twice, [])
    equal(
        "ListMetricDescriptors: names without help",
        [one.name for one in reply.descriptors if not one.help],
        [],
    )


@case(
    "ListPodSandboxMetrics",
    Level.OPTIONAL,
    _KEP,
    "ListPodSandboxMetricsResponse.pod_metrics",
    "PodSandboxMetrics.pod_sandbox_id,metrics,container_metrics",
    "ContainerMetrics.container_id,metrics",
    "Metric.name,timestamp,metric_type,label_values,value",
)
async def samples_fit_their_descriptions(trial: Trial) -> None:
    """A running pod has samples, its container too, each of a described metric and with its labels."""
    box = await trial.box()
    descriptors = await _descriptors(trial)
    reply = await trial.call(trial.runtime.ListPodSandboxMetrics, pb.ListPodSandboxMetricsRequest())
    (pod,) = [one for one in reply.pod_metrics if one.pod_sandbox_id == box.pod.id]
    containers = {one.container_id: one for one in pod.container_metrics}
    true(
        "ListPodSandboxMetrics: containers of the pod",
        box.id in containers,
        "the container",
        list(containers),
    )
    for metric in (*pod.metrics, *containers[box.id].metrics):
        true(
            "ListPodSandboxMetrics: a sample's name",
            metric.name in descriptors,
            "a described one",
            metric.name,
        )
        labels = (len(metric.label_values), len(descriptors[metric.name]))
        equal(f"ListPodSandboxMetrics: labels of {metric.name}, and its description's", labels[0], labels[1])
