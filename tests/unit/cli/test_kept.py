"""The rows of `crib kept`: how each container is, and what hinders it."""

from __future__ import annotations

import pytest

from crib.cli import keeping
from crib.stubs.node.v1.node_pb2 import KeptContainer, KeptPod


@pytest.mark.parametrize(
    ("phase", "told", "shown"),
    [
        ("Failed", "FailedIndexes: 1", "FailedIndexes: 1"),
        ("Running", "2 of 3 succeeded", "readiness probe failed: 503"),
        ("Failed", "", "readiness probe failed: 503"),
    ],
)
def test_what_has_failed_says_why_as_a_whole_and_what_runs_by_its_containers(
    phase: str, told: str, shown: str
) -> None:
    container = KeptContainer(name="pi-1/app", state="Exited (5)", message="readiness probe failed: 503")
    pod = KeptPod(namespace="default", name="pi", phase=phase, message=told, containers=[container])
    ((label, _, name, state, _, _, _, message),) = keeping._rows(pod)
    assert (label, name, state, message) == ("default/pi", "pi-1/app", "Exited (5)", shown)
