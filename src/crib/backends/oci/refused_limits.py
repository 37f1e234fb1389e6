"""Limits that only the kernel knows to be impossible: a processor that is not there, a swap limit below the
memory in use. Whoever asked for them hears which field it was.

The runtime writes them at a create, and says which file; at an update we write them ourselves.
"""

from __future__ import annotations

import errno
import os
import re

from crib.model.errors import Broken, CribError, InvalidRequest
from crib.ocispec.resources import FIELD

_REFUSALS = (
    errno.EINVAL,
    errno.ERANGE,
    errno.EOVERFLOW,
    errno.ENOENT,  # a size of huge pages that this kernel has not
    errno.EACCES,  # a processor or memory node that the cgroup above has not (cgroup v1)
)
_WORDS = "|".join(re.escape(os.strerror(number)) for number in _REFUSALS)
_FILE = r"(?P<file>[a-z0-9_]+\.[A-Za-z0-9_.]+)"
_REFUSED = (
    re.compile(rf"(?:writing|opening) file `(?:[^`]*/)?{_FILE}`[^:]*: (?:{_WORDS})", re.IGNORECASE),  # crun
    re.compile(rf"(?:write|open) /sys/fs/cgroup/\S*/{_FILE}: (?:{_WORDS})", re.IGNORECASE),  # runc
)
_TOO_LITTLE = re.compile(r"OOM: the memory limit could be too low|was OOM-killed \(memory limit too low\?\)")
_FIELDS = {
    "cpu.cfs_period_us": "cpu_period",
    "cpu.cfs_quota_us": "cpu_quota",
    "cpu.max": "cpu_quota",
    "cpu.shares": "cpu_shares",
    "cpuset.cpus": "cpuset_cpus",
    "cpuset.mems": "cpuset_mems",
    "memory.limit_in_bytes": "memory_limit_in_bytes",
    "memory.max": "memory_limit_in_bytes",
    "memory.memsw.limit_in_bytes": "memory_swap_limit_in_bytes",
    "memory.swap.max": "memory_swap_limit_in_bytes",
}


def create_failure(what: str, words: str) -> CribError:
    """The error for a create that the runtime explained with `words`."""
    if _TOO_LITTLE.search(words):
        return InvalidRequest(f"{what}: {words}", field=f"{FIELD}.memory_limit_in_bytes")
    for pattern in _REFUSED:
        if found := pattern.search(words):
            return InvalidRequest(f"{what}: {words}", field=f"{FIELD}.{_field(found['file'])}")
    return Broken(f"{what}: {words}")


def refused_field(error: OSError, field: str) -> str:
    """Below `field`, the limit whose file could not be written; empty when the value is not to blame."""
    path = str(error.filename or "")
    if error.errno not in _REFUSALS or not path or not os.path.isdir(os.path.dirname(path)):
        return ""
    return f"{field}.{_field(os.path.basename(path))}"


def _field(file: str) -> str:
    if file.startswith("hugetlb."):
        return "hugepage_limits"
    return _FIELDS.get(file, f"unified[{file!r}]")
