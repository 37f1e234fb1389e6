"""A trace that a kubelet began goes on in crib: the call as its child, and the stages as children of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.collector import Collector, running_collector
from tests.registry import free_port
from tests.system.labs.daemon import Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OF_KUBELET = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector_at() -> Iterator[tuple[Collector, str]]:
    place = f"127.0.0.1:{free_port()}"
    with running_collector(place) as collector:
        yield collector, place


@pytest.fixture(scope="module")
def cribd(collector_at: tuple[Collector, str]) -> Iterator[Cribd]:
    with running_cribd(extra=f'[tracing]\nendpoint = "{collector_at[1]}"') as daemon:
        yield daemon


async def test_a_pods_start_continues_the_trace_of_its_caller(
    cribd: Cribd, collector_at: tuple[Collector, str]
) -> None:
    collector, _ = collector_at
    async with cribd.story() as cri:
        await cri.call(cri.runtime.Version, pb.VersionRequest())  # nobody traces that
        request = pb.RunPodSandboxRequest(config=cri.pod_config("traced"))
        parent = (("traceparent", f"00-{TRACE}-{OF_KUBELET}-01"),)
        answer = await cri.runtime.RunPodSandbox(request, metadata=parent, timeout=60)
        unsampled = (("traceparent", f"00-{'9' * 32}-{OF_KUBELET}-00"),)
        status = pb.PodSandboxStatusRequest(pod_sandbox_id=answer.pod_sandbox_id)
        await cri.runtime.PodSandboxStatus(status, metadata=unsampled, timeout=60)
        bad = pb.PodSandboxStatusRequest(pod_sandbox_id="nothing")
        with pytest.raises(Exception, match="nothing"):
            await cri.runtime.PodSandboxStatus(bad, metadata=parent, timeout=60)

    def whole(spans: list[Any]) -> bool:
        return "runtime.v1.RuntimeService/PodSandboxStatus" in {span.name for span in spans}

    spans = collector.until(whole)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    by_id = {span.span_id: span for span in spans}
    roots = {
        span.name: span for span in spans if span.span_id not in by_id or span.parent_span_id not in by_id
    }
    assert roots.keys() == {
        "runtime.v1.RuntimeService/RunPodSandbox",
        "runtime.v1.RuntimeService/PodSandboxStatus",
    }
    assert {span.parent_span_id.hex() for span in roots.values()} == {OF_KUBELET}
    call = roots["runtime.v1.RuntimeService/RunPodSandbox"]
    attributes = {one.key: one.value.string_value or one.value.int_value for one in call.attributes}
    assert attributes["rpc.method"] == "RunPodSandbox"
    assert attributes["rpc.grpc.status_code"] == 0
    stages = {span.name: span for span in spans if span.span_id != call.span_id and span.kind != call.kind}
    assert {"RunPodSandbox", "namespaces", "files", "network"} <= stages.keys()
    assert stages["RunPodSandbox"].parent_span_id == call.span_id
    for name in ("namespaces", "files", "network"):
        assert stages[name].parent_span_id == stages["RunPodSandbox"].span_id, name
        assert call.start_time_unix_nano <= stages[name].start_time_unix_nano
        assert stages[name].end_time_unix_nano <= call.end_time_unix_nano
    failed = roots["runtime.v1.RuntimeService/PodSandboxStatus"]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert "there is no pod sandbox 'nothing'" in failed.status.message
    assert collector.resources[0]["service.name"] == "crib"


async def test_calls_and_the_daemons_end_do_not_wait_for_a_collector_that_is_away(
    cribd: Cribd, collector_at: tuple[Collector, str]
) -> None:
    collector_at[0].stop()
    parent = (("traceparent", f"00-{TRACE}-{OF_KUBELET}-01"),)
    async with cribd.connect() as cri:
        for _ in range(50):
            await cri.runtime.Version(pb.VersionRequest(), metadata=parent, timeout=60)
    cribd.stop()  # it ends by itself, and well
