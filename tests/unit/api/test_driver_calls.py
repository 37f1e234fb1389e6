"""Storage drivers as crib.v1.Node tells of them."""

from __future__ import annotations

from crib.api.driver_calls import encode_driver
from crib.model.driver_status import DriverFigures, DriverStatus
from crib.stubs.node.v1 import node_pb2 as pb


def test_every_fact_of_a_driver_is_told() -> None:
    status = DriverStatus(
        name="nfs.csi.k8s.io",
        socket="/run/nfs.sock",
        ready=True,
        problem="none",
        version="v4",
        capabilities=("node STAGE_UNSTAGE_VOLUME",),
        node_id="node-1",
        most_volumes=16,
        calls=3,
        failures=1,
        seconds=0.0015,
    )
    message = encode_driver(status)
    assert message == pb.VolumeDriver(
        name="nfs.csi.k8s.io",
        socket="/run/nfs.sock",
        ready=True,
        problem="none",
        version="v4",
        capabilities=["node STAGE_UNSTAGE_VOLUME"],
        node_id="node-1",
        most_volumes=16,
        calls=3,
        failures=1,
        duration=1_500_000,
    )
    assert {field.name for field, _ in message.ListFields()} == {
        field.name for field in pb.VolumeDriver.DESCRIPTOR.fields
    }


def test_figures_are_those_of_one_driver() -> None:
    figures = DriverFigures()
    for driver, call, failed in (("a", "Probe", False), ("a", "NodeStageVolume", True), ("b", "Probe", True)):
        figures.calls.add((driver, call), 0.5, failed=failed)
    assert figures.of("a") == (2, 1, 1.0)
    assert figures.of("c") == (0, 0, 0)
