"""What can go wrong between this program and a runtime, as one tree.

ClientError                     gRPC code
├── InvalidRequest              INVALID_ARGUMENT     the request is wrong
├── NotFound                    NOT_FOUND            no such sandbox, container or image
│   └── Ambiguous               (made here)          the name fits more than one
├── AlreadyExists               ALREADY_EXISTS       the name is taken by something different
├── WrongState                  FAILED_PRECONDITION  not in the state that the noun is in
├── Exhausted                   RESOURCE_EXHAUSTED   a limit was reached
├── TimedOut                    DEADLINE_EXCEEDED    the time-out passed before an answer came
├── Unavailable                 UNAVAILABLE          nothing answers at the endpoint, or not yet
├── NotOffered                  UNIMPLEMENTED        the runtime does not offer the call
├── PodFailure           (made here)          a manifest's pod cannot be run here as it is written
└── RuntimeFailure              every other code     the runtime could not do it
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping


class ClientError(Exception):
    """The root. `code` is the gRPC code's name (empty for errors made here), `message` the reason."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class InvalidRequest(ClientError):
    """The runtime says that the request is wrong; the message names the field."""


class NotFound(ClientError):
    """The runtime knows no such sandbox, container or image."""


class Ambiguous(NotFound):
    """A name or the beginning of an id fits more than one; the message lists them."""


class AlreadyExists(ClientError):
    """The name is taken by something that differs."""


class WrongState(ClientError):
    """The noun is in a state that does not allow the call."""


class Exhausted(ClientError):
    """A limit of the runtime, of the host or of a message's size was reached."""


class TimedOut(ClientError):
    """No answer came within the time-out. The runtime may still be working on it."""


class Unavailable(ClientError):
    """Nothing answers at the endpoint, or the runtime is starting or stopping."""


class NotOffered(ClientError):
    """The runtime does not offer this call (an older one, or one without crib's Node service)."""


class PodFailure(ClientError):
    """A pod of a manifest cannot be run as it is written; the message names the pod and the part of it."""


class RuntimeFailure(ClientError):
    """The runtime tried and failed; the message is its own."""


_UNKNOWN_CALL = re.compile(r"^$|method not (?:found|implemented)|unknown (?:service|method)", re.IGNORECASE)
"""What gRPC libraries say of a call that the server does not have; a runtime that refuses says why."""
_NO_ANSWER = re.compile(
    r"^$|^(?:failed to connect|connection refused|socket closed|stream removed|recvmsg|sendmsg)",
    re.IGNORECASE,
)
"""What gRPC itself says if nothing answers. A runtime that cannot do something now says what."""
_TOO_LATE = re.compile(r"^$|^deadline exceeded", re.IGNORECASE)
"""What gRPC itself says at the caller's deadline. The runtime itself reports a command that took too long."""
_CLASSES: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: WrongState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: NotOffered,
}


def from_rpc(error: grpc.RpcError, endpoint: str, method: str) -> ClientError:
    """The error of the tree for a failed call, naming `endpoint` and `method` where it says nothing."""
    code: grpc.StatusCode = error.code()
    details = (error.details() or "").strip()
    kind = _CLASSES.get(code, RuntimeFailure)
    if kind is Unavailable and _NO_ANSWER.search(details):
        return Unavailable(f"no runtime answers at {endpoint}", code.name)
    if kind is TimedOut and _TOO_LATE.search(details):
        return TimedOut(f"{method} at {endpoint} did not answer in time", code.name)
    if kind is NotOffered and _UNKNOWN_CALL.search(details):
        return NotOffered(f"the runtime at {endpoint} does not offer {method}", code.name)
    return kind(details or f"{method} at {endpoint} failed with {code.name}", code.name)
