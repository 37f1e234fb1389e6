"""What the shim's services share: calls that are done whole, and errors of the host as those of a call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from crib.tasks.keeper import TaskKeeper
from crib.ttrpc.errors import CallFailed, PeerLost
from crib.ttrpc.messages import typed
from crib.ttrpc.server import Handler
from crib.vm.shim.options import OptionProblem
from crib.vm.shim.spec import NotInVm
from crib.wire.rpc_codes import Code

Question = TypeVar("Question", bound=Message)
Asked_contra = TypeVar("Asked_contra", bound=Message, contravariant=True)
Answer = TypeVar("Answer", bound=Message)


class WholeWork(Protocol[Asked_contra]):
    """Answers a message."""

    def __call__(self, request: Asked_contra, /) -> Coroutine[Any, Any, Message]: ...


def whole(keeper: TaskKeeper, question: type[Question], work: WholeWork[Question]) -> Handler:
    """A method whose call goes on to its end when whoever called has gone: half of it is never done."""

    async def go_on(request: Question) -> Message:
        return await asyncio.shield(keeper.part(question.__name__, said(work(request))))

    return typed(question, go_on)


async def said(work: Coroutine[Any, Any, Answer]) -> Answer:
    """What it answers; whatever else goes wrong as CallFailed."""
    try:
        return await work
    except NotInVm as error:
        raise CallFailed(Code.UNIMPLEMENTED, str(error)) from error
    except (OptionProblem, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CallFailed(Code.INVALID_ARGUMENT, str(error)) from error
    except PeerLost as error:
        raise gone(error) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CallFailed(Code.UNKNOWN, f"{error.strerror or error}{where}") from error


def gone(error: PeerLost) -> CallFailed:
    """Of a call that needed the guest's agent."""
    return CallFailed(Code.NOT_FOUND, f"it has ended with its VM or the VM's agent: {error}")


def stamp(nanoseconds: int) -> Timestamp:
    """Of nanoseconds since the epoch."""
    made = Timestamp()
    made.FromNanoseconds(nanoseconds)
    return made
