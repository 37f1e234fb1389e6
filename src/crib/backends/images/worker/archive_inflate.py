"""Archives that are compressed as a whole: inflated to a file without a name in the staging directory.

Members of an archive are read by position, which a compressed file does not have.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading

from crib.backends.images.worker.free_space import EVERY, require_free
from crib.backends.images.worker.inflate import InflateError, Inflater
from crib.backends.images.worker.layers import RATIO_GRACE
from crib.model.image_settings import TransferSettings

_PIECE = 1 << 20


async def inflate_archive(fd: int, limits: TransferSettings) -> int:
    """A descriptor for the inflated content of a gzip or zstd file; `fd` stays the caller's.

    Takes at most `max_layer_bytes`, and `max_ratio` times the file's size. InflateError says what is wrong
    with the file, Exhausted that `min_free` would not stay. Nothing is left behind, also by a cancellation.
    """
    stop = threading.Event()
    job = asyncio.get_running_loop().run_in_executor(None, _inflate, fd, limits, stop)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        stop.set()
        # The thread reads `fd`, which the caller closes next. It looks at `stop` after each piece.
        await asyncio.wait([job])
        if job.exception() is None:
            os.close(job.result())
        raise


def _inflate(fd: int, limits: TransferSettings, stop: threading.Event) -> int:
    size = os.fstat(fd).st_size
    allowed = min(limits.max_layer_bytes, max(RATIO_GRACE, limits.max_ratio * size))
    inflater = Inflater()
    position = written = unchecked = 0
    with tempfile.TemporaryFile(dir=".", buffering=0) as spool:
        while position < size and not stop.is_set():
            data = os.pread(fd, min(_PIECE, size - position), position)
            if not data:
                break
            position += len(data)
            for piece in inflater.feed(data):
                if stop.is_set():
                    break
                written += len(piece)
                unchecked += len(piece)
                if written > allowed:
                    raise InflateError(f"{size} bytes unpack to more than {allowed}, which is the limit")
                if unchecked >= EVERY:
                    unchecked = 0
                    require_free(spool.fileno(), 0, limits.min_free, "archive")
                _write(spool.fileno(), piece)
        for piece in inflater.end():
            _write(spool.fileno(), piece)
        return os.dup(spool.fileno())


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
