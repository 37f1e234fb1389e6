"""Which calls survive a runtime's restart, and how long anything may take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from crib.client import Connection, pods
from crib.client.deadlines import deadline, left_of
from crib.client.errors import TimedOut, Unavailable, from_rpc
from crib.client.repeats import is_idempotent, may_repeat
from crib.stubs.runtime.v1 import api_pb2 as cri
from tests.unit.client.fake_runtime import World, serve

CHANGES = {
    "Attach", "CheckpointContainer", "CheckpointPod", "CreateContainer", "Exec", "ExecSync", "PortForward",
    "ReopenContainerLog", "RestorePod", "RunPodSandbox", "StartContainer",
    "UpdateContainerResources", "UpdatePodSandboxResources", "UpdateRuntimeConfig",
}  # fmt: skip
"""Calls of the CRI that must not be made twice; a URL of a stream is good for one stream."""
STREAMS = {"GetContainerEvents"}


def calls_of_the_cri() -> set[str]:
    services = cri.DESCRIPTOR.services_by_name.values()
    return {call.name for service in services for call in service.methods}


def test_each_call_of_the_cri_is_known_to_be_repeatable_or_not() -> None:
    every = {name for name in calls_of_the_cri() - STREAMS if not name.startswith("Stream")}
    assert {name for name in every if not is_idempotent(name)} == CHANGES


@pytest.mark.parametrize(
    ("call", "code", "words", "again"),
    [
        ("Version", "UNAVAILABLE", "Socket closed", True),
        ("Version", "CANCELLED", "", True),
        ("Version", "INTERNAL", "it broke", False),
        ("StopContainer", "UNAVAILABLE", "recvmsg:Connection reset by peer", True),
        ("RunPodSandbox", "UNAVAILABLE", "recvmsg:Connection reset by peer", False),
        ("RunPodSandbox", "UNAVAILABLE", "failed to connect to all addresses; last error: x", True),
        ("PullImage", "UNAVAILABLE", "manifest of a:1: credentials are refused, or", False),
    ],
)
def test_a_change_is_made_again_only_where_that_does_no_harm(
    call: str, code: str, words: str, *, again: bool
) -> None:
    empty = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode[code], empty, empty, words, None)
    assert may_repeat(call, error, from_rpc(error, "unix:///s", call)) is again


@contextlib.asynccontextmanager
async def served(path: Path, world: World) -> AsyncIterator[None]:
    server = await serve(str(path), world)
    try:
        yield
    finally:
        await server.stop(None)


async def test_a_read_waits_for_a_runtime_that_is_restarted(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "s"
    async with served(path, world):
        crib = Connection(str(path), patience=60)
        await crib.call(crib.runtime.Version, cri.VersionRequest())
    reading = asyncio.ensure_future(crib.call(crib.runtime.Version, cri.VersionRequest()))
    making = asyncio.ensure_future(pods.run_sandbox(crib, cri.PodSandboxConfig()))
    done, _ = await asyncio.wait({reading, making}, timeout=0.3)
    assert not done
    async with served(path, world):
        assert (await reading).runtime_name == "fake"
        assert (await making).id in world.pods
    await crib.close()


async def test_without_patience_a_read_fails_at_once(tmp_path: Path) -> None:
    async with served(tmp_path / "s", World()):
        crib = Connection(f"{tmp_path}/s")
        await crib.call(crib.runtime.Version, cri.VersionRequest())
    with pytest.raises(Unavailable, match="no runtime answers"):
        await crib.call(crib.runtime.Version, cri.VersionRequest())
    await crib.close()


async def test_a_deadline_is_shared_by_all_calls_of_its_block(tmp_path: Path) -> None:
    world = World(version_gate=asyncio.Event())
    async with served(tmp_path / "s", world), Connection(f"{tmp_path}/s") as crib:
        with deadline(0.05), pytest.raises(TimedOut):
            await crib.call(crib.runtime.Version, cri.VersionRequest(), timeout=0)
        with deadline(0), pytest.raises(TimedOut):
            await crib.call(crib.runtime.Status, cri.StatusRequest())
        assert (await crib.call(crib.runtime.Status, cri.StatusRequest())).status.conditions


def test_an_inner_deadline_ends_no_later_than_the_outer_one() -> None:
    assert left_of(None) is None
    with deadline(5), deadline(50):
        assert 0 < (left_of(None) or 0) <= 5
    with deadline(50), deadline(5):
        assert 0 < (left_of(None) or 0) <= 5
    assert left_of(None) is None
