"""The kernel's log, as far as it goes back (kernel, ABI/testing/dev-kmsg)."""

from __future__ import annotations

import os
from collections.abc import Iterator

RECORD = 8192
"""Bytes of the longest record (PRINTK_MESSAGE_MAX and what escapes add)."""
MOST_RECORDS = 50_000
"""That one reading takes: a kernel that logs all the time would never end it."""


def read_kernel_log(path: str = "/dev/kmsg") -> Iterator[str]:
    """The text of each record, the oldest first; nothing where we may not read it. Takes 1 µs a record."""
    try:
        log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # not there, or not for us (syslog namespaces, kernel.dmesg_restrict)
        return
    try:
        for _record in range(MOST_RECORDS):
            try:
                data = os.read(log, RECORD)
            except BlockingIOError:
                return  # that was the latest
            except BrokenPipeError:
                continue  # the next one has been overwritten: it goes on with the oldest that is there
            except OSError:
                return
            if not data:
                return
            # "PRIORITY,NUMBER,TIME,FLAGS;TEXT\n", then lines with keys that begin with a space
            yield data.partition(b";")[2].partition(b"\n")[0].decode("utf-8", "replace")
    finally:
        os.close(log)
