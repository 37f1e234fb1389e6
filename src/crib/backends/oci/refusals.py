"""What only the kernel, the image or the runtime can refuse, told as the field of the request that asked.

A processor that is not there, a file mounted over a directory, a program that the image lacks: the runtime
meets these in the middle of a create, and says which. Limits of an update we write ourselves.
"""

from __future__ import annotations

import errno
import os
import re

from crib.host.directories import make_directory
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
_TOO_LITTLE = re.compile(
    r"OOM: the memory limit could be too low"  # crun
    r"|was OOM-killed \(memory limit too low\?\)|unable to set memory limit to \d+ \(current usage: "  # runc
)
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


_KIND = "|".join(os.strerror(number) for number in (errno.ENOTDIR, errno.EISDIR))
_PLACE = "|".join(
    os.strerror(number)
    for number in (
        *(errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.EPERM, errno.EACCES, errno.EXDEV),
        *(errno.ELOOP, errno.ENAMETOOLONG),
    )
)
_CONTEXT = "config.linux.security_context"
_PLACES = tuple(
    (re.compile(pattern, re.IGNORECASE), field)
    for pattern, field in (
        # crun; a mount that fails for any other reason may be one of ours
        (f"mount `[^`]*` to `[^`]*`: (?:{_KIND})", "config.mounts"),
        (f"mkdir `[^`]*`: (?:{_PLACE})", "config.mounts"),
        (rf"failed open\(\)ing /dev/null: (?:{_PLACE})", "config.mounts"),
        (f"mknod `[^`]*`: (?:{_PLACE})", "config.devices"),
        (f"open executable: (?:{_PLACE})", "config.command"),
        (rf"executable file `[^`]*` not found(?: in \$PATH)?: (?:{_PLACE})", "config.command"),
        (f"chdir `[^`]*`: (?:{_PLACE})", "config.working_dir"),
        (f"^open `[^`/][^`]*`: (?:{_PLACE})", _CONTEXT),  # a masked or read-only path, below the root
        # runc
        (f'error mounting "[^"]*" to rootfs at .*: (?:{_KIND})', "config.mounts"),
        (f"error creating device nodes: .*: (?:{_PLACE})", "config.devices"),
        (f'exec: "[^"]*": (?:stat .*: )?(?:executable file not found|{_PLACE})', "config.command"),
        (f"chdir to cwd .* failed: (?:{_PLACE})", "config.working_dir"),
        (f"can't (?:mask|make) .*: (?:{_PLACE})", _CONTEXT),
        # conmon
        (f"Failed to open log file (?:{_PLACE})", "config.log_path"),
    )
)


def create_failure(what: str, words: str) -> CribError:
    """The error for a create that the runtime, or its monitor, explained with `words`."""
    field = _refused_by(words)
    return InvalidRequest(f"{what}: {words}", field=field) if field else Broken(f"{what}: {words}")


def _refused_by(words: str) -> str:
    if _TOO_LITTLE.search(words):
        return f"{FIELD}.memory_limit_in_bytes"
    for pattern in _REFUSED:
        if found := pattern.search(words):
            return f"{FIELD}.{_field(found['file'])}"
    return next((field for pattern, field in _PLACES if pattern.search(words)), "")


def make_log_directory(path: str, field: str) -> None:
    """InvalidRequest, naming `field`, when something else is where the request wants it."""
    try:
        make_directory(path, 0o755)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(f"{error.filename}: {error.strerror}", field=field) from error


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
