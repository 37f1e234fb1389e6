"""What went wrong in the worker, as a message, and as one of our errors again in the daemon."""

from __future__ import annotations

import asyncio
import errno
import logging
import traceback

from crib.backends.images.archive import ArchiveError
from crib.backends.images.layers import LayerError
from crib.backends.images.messages import Failed
from crib.model import errors
from crib.wire.oci_image import ImageFormatError
from crib.wire.registry import printable

_log = logging.getLogger(__name__)
_MAX_MESSAGE = 4000
_KINDS: dict[str, type[errors.CribError]] = {
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


def failed(number: int, error: BaseException, *, importing: bool) -> Failed:
    """The answer to request `number` that ended with `error`.

    Bad content is the caller's fault when he gave the archive, and the registry's otherwise.
    """
    match error:
        case errors.CribError():
            kind = type(error).__name__ if type(error).__name__ in _KINDS else "Broken"
            return Failed(number, kind, error.message[:_MAX_MESSAGE], error.reason)
        case asyncio.CancelledError():
            return Failed(number, "Unavailable", "cancelled")
        case ArchiveError() | ImageFormatError() | LayerError():
            kind = "InvalidRequest" if importing else "Broken"
            return Failed(number, kind, str(error)[:_MAX_MESSAGE])
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Failed(number, "Exhausted", f"no space left for layers: {error}")
        case MemoryError():
            return Failed(number, "Exhausted", "the image worker is out of memory")
        case OSError():
            return Failed(number, "Broken", f"image worker: {error}"[:_MAX_MESSAGE])
    text = printable(f"{type(error).__name__}: {error}")
    # Where it happened, but not what came before it: the errors of connections name signed addresses.
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("image worker: unexpected error: %s\n%s", text, place)
    return Failed(number, "Broken", f"image worker: {text}")


def raised(message: Failed, subject: str) -> errors.CribError:
    """The error that a failed request becomes; `subject` says what was tried."""
    kind = _KINDS.get(message.kind, errors.Broken)
    return kind(f"{subject}: {message.message}"[: 2 * _MAX_MESSAGE], reason=message.reason[:100])
