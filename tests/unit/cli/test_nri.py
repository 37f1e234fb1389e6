"""`crib nri plugins`: a row for each plugin."""

from __future__ import annotations

from crib.cli.nri import average, row
from crib.stubs.node.v1.node_pb2 import NodePlugin


def test_a_row_has_what_a_person_asks_first() -> None:
    plugin = NodePlugin(
        name="10-logger",
        state="ready",
        since=1,
        pid=4711,
        installed=True,
        calls=4,
        failures=1,
        duration=5_000_000,
        events=["RunPodSandbox"],
    )
    name, state, _, pid, origin, calls, failed, mean, problem, events = row(plugin)
    assert (name, state, pid, origin) == ("10-logger", "ready", "4711", "plugin_dir")
    assert (calls, failed, mean, problem, events) == ("4", "1", "1.25 ms", "-", "RunPodSandbox")


def test_what_is_not_known_is_a_dash() -> None:
    plugin = NodePlugin(state="connected", since=1)
    assert [cell for cell in row(plugin) if cell == "-"] == ["-"] * 5
    assert average(plugin) == "-"
