"""Node plugins as crib.v1.Node tells of them."""

from __future__ import annotations

from crib.api.plugin_calls import encode_plugins
from crib.model.plugin_status import PluginState, PluginStatus
from crib.stubs.node.v1 import node_pb2 as pb


def test_every_fact_of_a_plugin_is_told() -> None:
    status = PluginStatus(
        name="10-logger",
        state=PluginState.READY,
        since=17,
        pid=4711,
        installed=True,
        version="v0.12.0",
        events=("CreateContainer",),
        calls=3,
        failures=1,
        seconds=0.0015,
        starts=2,
        problem="it ended",
    )
    (message,) = encode_plugins([status])
    assert message == pb.NodePlugin(
        name="10-logger",
        state="ready",
        since=17,
        pid=4711,
        installed=True,
        nri_version="v0.12.0",
        events=["CreateContainer"],
        calls=3,
        failures=1,
        duration=1_500_000,
        starts=2,
        problem="it ended",
    )
    assert {field.name for field, _ in message.ListFields()} == {
        field.name for field in pb.NodePlugin.DESCRIPTOR.fields
    }
