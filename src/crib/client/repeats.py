"""Which calls are made again when the runtime was away, for example because it was restarted.

| call | repeated |
|---|---|
| one that only reads | always |
| a stop or a removal, a pull | always: the CRI wants them idempotent |
| every other change | only if it never left this program |

A change whose answer was lost may have happened: who made the call has to look.
"""

from __future__ import annotations

import re

import grpc

from crib.client.errors import ClientError, ImageDenied, RegistryUnavailable

PAUSE = 0.1
"""Seconds between two tries."""
_READS = re.compile(
    r"(?:List|Inspect|Explain)\w+|\w*(?:Status|Stats)|Version|RuntimeConfig|ImageFsInfo|Info|Timeline"
)
_IDEMPOTENT = frozenset(
    {"StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox", "RemoveImage", "PullImage"}
)
_NEVER_SENT = re.compile(r"^failed to connect|connection refused", re.IGNORECASE)
"""What gRPC says of a call for which there was no connection."""
_CUT_OFF = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""A server that stops cancels what it is at."""


def is_idempotent(call: str) -> bool:
    """Whether making the call twice is like making it once."""
    return call in _IDEMPOTENT or _READS.fullmatch(call) is not None


def may_repeat(call: str, error: grpc.RpcError, failure: ClientError) -> bool:
    """Whether the call `call`, which failed like this, can be made again without harm."""
    if error.code() not in _CUT_OFF or isinstance(failure, ImageDenied | RegistryUnavailable):
        return False
    return is_idempotent(call) or bool(_NEVER_SENT.search(error.details() or ""))
