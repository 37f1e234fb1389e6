"""What a machine's guest tells of a container whose root is on disks of the guest's."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from crib.backends.shim.nouns import ShimLost
from crib.backends.shim.task_client import ShimCalls
from crib.backends.shim.tools import ShimTools
from crib.model.facts import RootfsFacts
from crib.model.ids import ContainerId
from crib.stubs.vm import guest_pb2

SERVICE = "crib.vm.v1.Guest"
ANSWER_TIME = 10.0
"""Seconds for a question that the guest answers at once."""
Answer = TypeVar("Answer", bound=Message)


async def written(tools: ShimTools, container: ContainerId) -> guest_pb2.WrittenResponse:
    """On its disk, now. CribError: it does not run, or has no disk."""
    asked = guest_pb2.WrittenRequest(id=container)
    return await _ask(tools, container, "Written", asked, guest_pb2.WrittenResponse)


async def users(tools: ShimTools, container: ContainerId) -> RootfsFacts:
    """Of its root, as it is now. CribError: it does not run, or has no disk."""
    said = await _ask(
        tools, container, "Users", guest_pb2.UsersRequest(id=container), guest_pb2.UsersResponse
    )
    return RootfsFacts(_text(said.passwd), _text(said.group))


async def _ask(
    tools: ShimTools, container: ContainerId, method: str, asked: Message, answer: type[Answer]
) -> Answer:
    shim = await tools.services.shim_of(container)
    if shim is None:
        raise ShimLost(f"the machine of container {container} has gone")
    return await ShimCalls(shim.client, SERVICE, lambda: ANSWER_TIME).call(method, asked, answer)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
