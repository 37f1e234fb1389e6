"""What can go wrong between this program and a runtime, as one tree.

ClientError                     gRPC code
├── InvalidRequest              INVALID_ARGUMENT     the request is wrong
├── NotFound                    NOT_FOUND            no such sandbox, container or image
│   ├── Ambiguous               (made here)          the name fits more than one
│   └── ImageNotFound           NOT_FOUND, UNKNOWN   neither the node nor the registry has the image
├── ImageDenied                 any                  the registry wants (other) credentials for the image
├── ImageRejected               any                  the node's policy or a signature forbids the image
├── AlreadyExists               ALREADY_EXISTS       the name is taken by something different
├── WrongState                  FAILED_PRECONDITION  not in the state that the noun is in
├── Exhausted                   RESOURCE_EXHAUSTED   a limit was reached
├── TimedOut                    DEADLINE_EXCEEDED    the time-out passed before an answer came
├── Unavailable                 UNAVAILABLE          nothing answers at the endpoint, or not yet
│   └── RegistryUnavailable     UNAVAILABLE, UNKNOWN the image's registry does not answer
├── NotOffered                  UNIMPLEMENTED        the runtime does not offer the call
├── PodFailure                  (made here)          a manifest's pod cannot be run here as it is written
├── CommandFailed               (made here)          a command's exit code was not 0, and it was to be 0
└── RuntimeFailure              every other code     the runtime could not do it

For images, runtimes agree on few codes: containerd says NOT_FOUND or UNKNOWN, CRI-O always UNKNOWN. So the
four kinds go by the CRI's own words (cri-api pkg/errors) and by what the runtimes' libraries say.
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


class ImageNotFound(NotFound):
    """Neither the node nor the registry has the image."""


class ImageDenied(ClientError):
    """The registry gives the image to nobody, or not with these credentials.

    Some registries say so of images that do not exist, to those who have not logged in.
    """


class ImageRejected(ClientError):
    """The node's policy forbids the image, or its signature is missing or wrong."""


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


class RegistryUnavailable(Unavailable):
    """The image's registry (or every mirror of it) does not answer, or answers with a failure of its own."""


class NotOffered(ClientError):
    """The runtime does not offer this call (an older one, or one without crib's Node service)."""


class PodFailure(ClientError):
    """A pod of a manifest cannot be run as it is written; the message names the pod and the part of it."""


class CommandFailed(ClientError):
    """A command ended with another exit code than 0; `CommandResult.check` raises it."""


class RuntimeFailure(ClientError):
    """The runtime tried and failed; the message is its own."""


_UNKNOWN_CALL = re.compile(
    r"^$|method (?:\w+ )?not (?:found|implemented)|unknown (?:service|method)", re.IGNORECASE
)
"""What gRPC libraries say of a call that the server does not have; a runtime that refuses says why."""
_NO_ANSWER = re.compile(
    r"^$|^(?:failed to connect|connection refused|socket closed|stream removed|recvmsg|sendmsg)",
    re.IGNORECASE,
)
"""What gRPC itself says if nothing answers. A runtime that cannot do something now says what."""
_TOO_LATE = re.compile(r"^$|^deadline exceeded", re.IGNORECASE)
"""What gRPC itself says at the caller's deadline. The runtime itself reports a command that took too long."""
_ABOUT_IMAGES = frozenset({"PullImage", "PullProgress", "CreateContainer"})
"""Calls that fail for the sake of an image."""
_IMAGE_WORDS: tuple[tuple[type[ClientError], re.Pattern[str]], ...] = (
    (
        ImageRejected,
        re.compile(r"^SignatureValidationFailed|is blocked by|rejected by policy", re.IGNORECASE),
    ),
    (
        RegistryUnavailable,
        re.compile(
            r"^RegistryUnavailable|connection refused|no such host|i/o timeout|no route to host"
            r"|network is unreachable|TLS handshake timeout|5\d\d (?:Internal|Bad|Service|Gateway)",
            re.IGNORECASE,
        ),
    ),
    (
        ImageDenied,
        re.compile(
            r"access to the resource is denied|pull access denied|unauthorized|authorization failed"
            r"|authentication required|403 Forbidden|credentials are refused",
            re.IGNORECASE,
        ),
    ),
    (
        ImageNotFound,
        re.compile(
            r"manifest unknown|name unknown|image not known|repository .*not found"
            r"|image .*(?:: not found|is not on this node)",
            re.IGNORECASE | re.DOTALL,
        ),
    ),
)
"""What containerd (Docker's resolver), CRI-O (containers/image) and the CRI's own reasons say of an image.
The clearest words come first."""
_OF_ANY_KIND = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes with which one of the four may come."""
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
    if method in _ABOUT_IMAGES:
        kind = _image_kind(code, details, method) or kind
    return kind(details or f"{method} at {endpoint} failed with {code.name}", code.name)


def failed_pull(code: str, message: str) -> ClientError:
    """The error of a pull that was followed: `code` is the gRPC code's name, empty from an older crib."""
    status = getattr(grpc.StatusCode, code, grpc.StatusCode.UNKNOWN)
    kind = _image_kind(status, message, "PullImage") or _CLASSES.get(status, RuntimeFailure)
    return kind(message, code)


def _image_kind(code: grpc.StatusCode, words: str, method: str) -> type[ClientError] | None:
    """Which of the four, or None if it is about something else."""
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return ImageDenied
    if code not in _OF_ANY_KIND:
        return None
    for kind, pattern in _IMAGE_WORDS:
        if pattern.search(words):
            return kind
    is_found = code is not grpc.StatusCode.NOT_FOUND or method == "CreateContainer"
    return None if is_found else ImageNotFound
