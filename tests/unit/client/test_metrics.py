"""Metrics by the client, from runtimes that offer the calls or do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crib.client import Connection, metrics
from crib.client.errors import NotOffered
from tests.unit.client.fake_usage import UsageWorld, io_metrics, serve_usage


@pytest.fixture
def world() -> UsageWorld:
    return UsageWorld()


@pytest.fixture
async def connection(world: UsageWorld, tmp_path: Path) -> AsyncIterator[Connection]:
    server = await serve_usage(f"{tmp_path}/s", world)
    async with Connection(f"unix://{tmp_path}/s") as connection:
        yield connection
    await server.stop(None)


async def test_a_runtime_without_the_stream_is_asked_for_the_list(
    world: UsageWorld, connection: Connection
) -> None:
    world.pod_metrics = [io_metrics(7, 4096)]
    assert [pod async for pod in metrics.of_pods(connection)] == world.pod_metrics


async def test_a_runtime_without_metrics_does_not_offer_them(connection: Connection) -> None:
    with pytest.raises(NotOffered):
        await metrics.descriptors(connection)
    with pytest.raises(NotOffered):
        _ = [pod async for pod in metrics.of_pods(connection)]
