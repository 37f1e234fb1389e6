"""How a failed request looks in a message, and as one of our errors again in the daemon."""

from __future__ import annotations

from crib.backends.images.messages import Failed
from crib.model import errors

MAX_TEXT = 4000
"""Characters of a failure's text."""
KINDS: dict[str, type[errors.CribError]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidRequest,
        errors.NotFound,
        errors.Exhausted,
        errors.Unavailable,
        errors.NotBuilt,
        errors.Broken,
    )
}
"""The errors that may come out of the worker, by name."""


def raised(message: Failed, subject: str) -> errors.CribError:
    """The error that a failed request becomes; `subject` says what was tried."""
    kind = KINDS.get(message.kind, errors.Broken)
    return kind(f"{subject}: {message.message}"[: 2 * MAX_TEXT], reason=message.reason[:100])
