"""A failure's gRPC code and text: the one place where the tree of `model.errors` meets gRPC."""

from __future__ import annotations

import grpc

from crib.model.errors import (
    REGISTRY_UNAVAILABLE,
    SIGNATURE_VALIDATION_FAILED,
    AlreadyExists,
    Broken,
    CribError,
    Exhausted,
    InvalidRequest,
    NotBuilt,
    NotFound,
    TimedOut,
    Unavailable,
    WrongState,
)

CODES: dict[type[CribError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    NotBuilt: grpc.StatusCode.UNIMPLEMENTED,
    Broken: grpc.StatusCode.INTERNAL,
}

# The kubelet looks for these words at the very beginning of the error, and leaves gRPC's own preamble away
# only for UNKNOWN (kubelet: cri-client PullImage, image_manager evalCRIPullErr).
_PULL_REASONS = (REGISTRY_UNAVAILABLE, SIGNATURE_VALIDATION_FAILED)

MAX_DETAILS = 3000
"""Characters of a status text: it travels in a header, and clients bound those (8 KiB is common)."""


def status_of(error: CribError) -> tuple[grpc.StatusCode, str]:
    """Code and text for a caller."""
    if error.reason in _PULL_REASONS:
        return grpc.StatusCode.UNKNOWN, shorten(str(error))
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind], shorten(str(error))
    return grpc.StatusCode.INTERNAL, shorten(str(error))


def shorten(text: str) -> str:
    """Cut out the middle of what is too long for a header: both ends of an error say something."""
    if len(text) <= MAX_DETAILS:
        return text
    half = (MAX_DETAILS - 20) // 2
    return f"{text[:half]} … (cut) … {text[-half:]}"
