"""A failure's gRPC code and text: the one place where the tree of `model.errors` meets gRPC."""

from __future__ import annotations

import grpc

from crib.model.errors import (
    REGISTRY_UNAVAILABLE,
    SIGNATURE_VALIDATION_FAILED,
    Aborted,
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
    Aborted: grpc.StatusCode.ABORTED,
    NotBuilt: grpc.StatusCode.UNIMPLEMENTED,
    Broken: grpc.StatusCode.INTERNAL,
}

# The kubelet looks for these words at the very beginning of the error. It omits gRPC's own preamble only for
# UNKNOWN (kubelet: cri-client PullImage, image_manager evalCRIPullErr).
_PULL_REASONS = (REGISTRY_UNAVAILABLE, SIGNATURE_VALIDATION_FAILED)

MAX_DETAILS = 6000
"""Bytes that a status text may take: percent-encoded in a header, which clients bound at 8 KiB."""
_CUT = " … (cut) … "


def status_of(error: CribError, method: str = "") -> tuple[grpc.StatusCode, str]:
    """Code and text for a caller of `method`."""
    if method == "PullImage" and error.reason in _PULL_REASONS:
        return grpc.StatusCode.UNKNOWN, shorten(str(error))
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind], shorten(str(error))
    return grpc.StatusCode.INTERNAL, shorten(str(error))


def shorten(text: str) -> str:
    """Cut the middle out of text that is too long for a header: both ends of an error matter."""
    text = text.encode(errors="replace").decode()  # file names may contain bytes that are not text
    if 12 * len(text) <= MAX_DETAILS or _size(text) <= MAX_DETAILS:
        return text
    half = MAX_DETAILS // 2 - _size(_CUT)
    return f"{_beginning(text, half)}{_CUT}{_beginning(text[::-1], half)[::-1]}"


def _size(text: str) -> int:
    """Bytes on the wire: anything but printable ASCII takes three for each byte of UTF-8 (gRPC, HTTP/2)."""
    return sum(1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode()) for c in text)


def _beginning(text: str, size: int) -> str:
    """As many characters as fit."""
    end, left = 0, size
    while end < len(text) and (left := left - _size(text[end])) >= 0:
        end += 1
    return text[:end]
