"""A CRI runtime in memory, for the tests of programs that talk to one; crib's own tests use it, too.

    from crib.client import ContainerSpec, PodSpec, SyncClient
    from crib.testing import FakeProgram, FakeServer

    with FakeServer() as cri, SyncClient(cri.endpoint) as client:
        cri.world.programs["sh -c 'exit 3'"] = FakeProgram(err=b"no\\n", code=3)
        box = client.run_pod_container(PodSpec("p"), ContainerSpec("busybox", ["sleep", "1000"]))
        assert client.exec(box, ["sh", "-c", "exit 3"]).code == 3
        cri.fail("StopContainer", "UNKNOWN", "the disk is full", times=1)

It answers through real gRPC on a unix socket. `world` is what the runtime has, `services` the two services of
the CRI over it, `streams` what commands, attached clients and forwarded ports get, `rules` failures and
delays, and `server` runs them. `plugin` has fixtures for pytest, which
finds them where crib is installed. crib's contract suite runs on the fake and on real runtimes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crib.testing.rules import AskedCall, CallRule
    from crib.testing.server import FakeServer
    from crib.testing.world import FakeProgram, FakeWorld

_LATER = {
    "AskedCall": "crib.testing.rules",
    "CallRule": "crib.testing.rules",
    "FakeProgram": "crib.testing.world",
    "FakeServer": "crib.testing.server",
    "FakeWorld": "crib.testing.world",
}
"""Imported when they are first used: every run of pytest loads `plugin`, and few use it."""

__all__ = ["AskedCall", "CallRule", "FakeProgram", "FakeServer", "FakeWorld"]


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found
