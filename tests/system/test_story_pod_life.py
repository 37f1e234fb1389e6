"""The life of a pod as a kubelet leads it, over the real socket of a real daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from crib.client import events
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.system.daemon import IMAGE, Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    before = cribd.leftovers()
    async with cribd.connect() as connection:
        yield connection
    cribd.settle(before)


async def test_a_pod_lives_and_is_removed_without_a_trace(cri: Cri) -> None:
    pod = await cri.run_pod("web")
    box = await cri.run_container(pod, "sleep", "100")
    assert (await cri.status(box)).state == pb.CONTAINER_RUNNING
    await cri.remove_pod(pod)
