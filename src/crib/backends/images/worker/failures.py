"""What went wrong in the worker, as a message."""

from __future__ import annotations

import asyncio
import errno
import logging
import traceback

from crib.backends.failures import failure
from crib.backends.images.messages import FAILURE_KINDS, MAX_FAILURE_TEXT, Failed
from crib.backends.images.worker.archive import ArchiveError
from crib.backends.images.worker.layers import LayerError, TooMuchMemory
from crib.model import errors
from crib.wire.oci_image import ImageFormatError
from crib.wire.registry import printable

_log = logging.getLogger(__name__)


def failed(number: int, error: BaseException, *, importing: bool) -> Failed:
    """The answer to request `number` that ended with `error`.

    Bad content is the caller's fault when he gave the archive, and the registry's otherwise.
    """
    match error:
        case errors.CribError():
            kind = type(error).__name__ if type(error).__name__ in FAILURE_KINDS else "Broken"
            return Failed(number, kind, error.message[:MAX_FAILURE_TEXT], error.reason)
        case asyncio.CancelledError():
            return Failed(number, "Unavailable", "cancelled")
        case ArchiveError() | ImageFormatError() | LayerError():
            kind = "InvalidRequest" if importing else "Broken"
            # The C library keeps what a large tree leaves in pieces, and its pages count for our limit.
            return Failed(number, kind, str(error)[:MAX_FAILURE_TEXT], spent=isinstance(error, TooMuchMemory))
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Failed(number, "Exhausted", f"no space left for layers: {error}")
        case MemoryError() | OSError(errno=errno.ENOMEM) | RuntimeError(args=("can't start new thread",)):
            return Failed(number, "Exhausted", "the image worker is out of memory", spent=True)
        case OSError():
            found = failure("image worker", error)
            return Failed(number, type(found).__name__, found.message[:MAX_FAILURE_TEXT])
    text = printable(f"{type(error).__name__}: {error}")
    # Where it happened, but not its causes: the errors of connections name signed addresses.
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("image worker: unexpected error: %s\n%s", text, place)
    return Failed(number, "Broken", f"image worker: {text}")
