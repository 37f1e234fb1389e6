"""What is no call of ours, or no message: the right code, no traceback, nothing kept, Version answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import grpc
import pytest

from crib.api.server import RECEIVE_LIMIT
from crib.stubs.runtime.v1 import api_pb2 as pb
from tests.fuzz.requests import METHODS
from tests.system.labs.daemon import Cri, Cribd, running_cribd

pytestmark = [pytest.mark.root, pytest.mark.system]

RUNTIME = "/runtime.v1.RuntimeService"
NOT_A_MESSAGE = (b"\xff\xff\xff\xff not a message", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x07", b"\x00")
"""No tag, a length without its bytes, one of 4 GiB, a wire type that is none, the field number 0."""
PLACES = [f"/{method.containing_service.full_name}/{name}" for name, method in sorted(METHODS.items())]


@pytest.fixture(scope="module")
def cribd() -> Iterator[Cribd]:
    with running_cribd() as daemon:
        yield daemon


@pytest.fixture
async def cri(cribd: Cribd) -> AsyncIterator[Cri]:
    async with cribd.story() as connection:
        yield connection
    assert "Traceback" not in cribd.log()


async def answer(cribd: Cribd, place: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    """Code and text of a call that sends these bytes."""
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"unix://{cribd.socket}", options=options) as channel:
        try:
            async for _ in cast(Any, channel).unary_stream(place)(data, timeout=30.0):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def test_bytes_that_are_no_message_are_refused_by_every_call(cri: Cri, cribd: Cribd) -> None:
    for place in PLACES:
        for data in NOT_A_MESSAGE:
            code, text = await answer(cribd, place, data)
            assert code == grpc.StatusCode.INVALID_ARGUMENT, (place, data, code, text)
            assert text.startswith(f"the request is not a message of {place.rpartition('/')[2]}: "), text
    assert await cri.sandboxes() == {}


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("ContainerStatus", b"\x0a\x01\xff"),
        ("StopPodSandbox", b"\x0a\x03a\xc3("),
        # config.metadata.name; a surrogate, which is no character
        ("RunPodSandbox", b"\x0a\x07\x0a\x05\x0a\x03\xed\xa0\x80"),
        # config.labels["\xff"]
        ("RunPodSandbox", b"\x0a\x05\x32\x03\x0a\x01\xff"),
    ],
)
async def test_a_string_that_is_not_utf_8_is_refused(
    cri: Cri, cribd: Cribd, method: str, data: bytes
) -> None:
    code, text = await answer(cribd, f"{RUNTIME}/{method}", data)
    assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, text)
    assert await cri.sandboxes() == {}


async def test_fields_of_a_later_cri_are_passed_over(cri: Cri, cribd: Cribd) -> None:
    unknown = b"\xfa\xff\xff\xff\x0f\x03abc"  # number 536,870,911, three bytes
    code, _ = await answer(cribd, f"{RUNTIME}/Version", unknown)
    assert code == grpc.StatusCode.OK
    pod = await cri.run_pod("later")
    request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod.id).SerializeToString()
    assert (await answer(cribd, f"{RUNTIME}/PodSandboxStatus", request + unknown))[0] == grpc.StatusCode.OK


@pytest.mark.usefixtures("cri")
async def test_a_message_over_16_mib_is_not_read(cribd: Cribd) -> None:
    for size, expected in (
        (RECEIVE_LIMIT + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (64 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        code, text = await answer(cribd, f"{RUNTIME}/CreateContainer", bytes(size))
        assert code == expected, (size, code, text)
    request = pb.VersionRequest(version="x" * (RECEIVE_LIMIT - 64)).SerializeToString()
    assert (await answer(cribd, f"{RUNTIME}/Version", request))[0] == grpc.StatusCode.OK


@pytest.mark.usefixtures("cri")
@pytest.mark.parametrize(
    "place",
    [
        "/runtime.v1.RuntimeService/NoSuchCall",
        "/runtime.v1alpha2.RuntimeService/Version",
        "/x/y",
        "//",
        "/é/è",
    ],
)
async def test_calls_that_there_are_not_are_unimplemented(cribd: Cribd, place: str) -> None:
    code, text = await answer(cribd, place, b"")
    assert code == grpc.StatusCode.UNIMPLEMENTED, (code, text)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: crib\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + b"\xff\xff\xff\x01\x05\0\0\0\x01",
        b"",
    ],
    ids=["HTTP/1.1", "TLS", "frames that are none", "a header block of 16 MiB", "nothing"],
)
async def test_a_peer_that_does_not_speak_grpc_holds_up_nobody(cri: Cri, cribd: Cribd, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, str(cribd.socket))
        await loop.sock_sendall(peer, said)
        assert (await cri.call(cri.runtime.Version, pb.VersionRequest(), 10.0)).runtime_name == "crib"
    assert (await cri.call(cri.runtime.Version, pb.VersionRequest(), 10.0)).runtime_name == "crib"
