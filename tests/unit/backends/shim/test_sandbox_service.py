"""Whether a shim has a sandbox service, by what it answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from crib.backends.shim.nouns import ShimLost
from crib.backends.shim.sandbox_service import SERVICE, SandboxService
from crib.model.errors import Unavailable
from crib.model.events import Stage
from crib.stubs.shim import sandbox_pb2
from crib.ttrpc.errors import CallFailed
from crib.ttrpc.server import ServedCall, Services
from crib.wire.rpc_codes import Code
from tests.unit.ttrpc.ends import BOUND, served


def answering(code: Code | None) -> Services:
    """With this code, or well."""

    async def ping(_call: ServedCall) -> bytes:
        if code is not None:
            raise CallFailed(code, "as the test has it")
        return sandbox_pb2.PingResponse().SerializeToString()

    return {SERVICE: {"PingSandbox": ping}}


@pytest.mark.parametrize(
    ("services", "is_offered"),
    [
        (answering(None), True),
        (answering(Code.NOT_FOUND), True),
        (answering(Code.UNKNOWN), True),
        (answering(Code.UNIMPLEMENTED), False),
        ({}, False),
    ],
    ids=["it answers", "it does not know the pod", "it has an error", "not this method", "not this service"],
)
async def test_a_shim_has_the_service_if_it_answers_for_it(services: Services, is_offered: bool) -> None:
    async with served(services) as (client, _):
        assert await SandboxService(client, lambda: BOUND).is_offered("pod") == is_offered


async def test_a_shim_that_says_nothing_is_not_taken_for_one_with_the_service() -> None:
    async def ping(_call: ServedCall) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with served({SERVICE: {"PingSandbox": ping}}) as (client, _):
        with pytest.raises(Unavailable, match="PingSandbox of the shim: no answer"):
            await SandboxService(client, lambda: 0.01).is_offered("pod")


async def test_a_shim_that_goes_is_not_taken_for_one_with_the_service() -> None:
    async with served({}) as (client, server):
        server.close()
        with pytest.raises(ShimLost):
            await SandboxService(client, lambda: BOUND).is_offered("pod")


def telling(info: dict[str, str]) -> Services:
    """With this in a verbose status."""

    async def status(call: ServedCall) -> bytes:
        asked = sandbox_pb2.SandboxStatusRequest.FromString(call.payload)
        return sandbox_pb2.SandboxStatusResponse(info=info if asked.verbose else {}).SerializeToString()

    return {SERVICE: {"SandboxStatus": status}}


async def test_a_shim_tells_the_parts_of_a_start_and_their_times() -> None:
    told = json.dumps(
        [
            {"name": "qemu", "began": 1000, "ended": 1200},
            {"name": "kernel", "began": 1200, "ended": 1207},
        ]
    )
    async with served(telling({"stages": told})) as (client, _):
        assert await SandboxService(client, lambda: BOUND).stages("pod") == [
            Stage("qemu", "pod", 1000, 200, "ok"),
            Stage("kernel", "pod", 1200, 7, "ok"),
        ]


@pytest.mark.parametrize(
    "services",
    [{}, telling({}), telling({"stages": "{"}), telling({"stages": "[{}]"}), telling({"stages": "7"})],
    ids=["no such service", "nothing", "no JSON", "no name", "no list"],
)
async def test_a_shim_that_tells_no_parts_is_one_all_the_same(services: Services) -> None:
    async with served(services) as (client, _):
        assert list(await SandboxService(client, lambda: BOUND).stages("pod")) == []
