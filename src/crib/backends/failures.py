"""The border: what goes wrong in files, mounts, programs and threads becomes one of our errors.

It says what was tried.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from crib.host.processes import Completed, ProgramFailed, ToolMissing
from crib.host.threads import FOREIGN, OURS, Job, Overdue
from crib.model.errors import Broken, CribError, Exhausted, InvalidRequest, Unavailable

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""A limit of the host, whoever asked for what."""
LONGEST_WORDS = 2000
"""Characters of what a program said that are told."""


def why(error: OSError, what: str = "") -> str:
    """The kernel's reason for a message that begins with `what`, with the file unless that names it."""
    reason = error.strerror or str(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return f"{name}: {reason}" if name and name not in what else reason


def failure(
    what: str,
    error: OSError | ProgramFailed,
    kind: type[CribError] = Broken,
    *,
    field: str = "",
    reason: str = "",
) -> CribError:
    """`error` as one of ours; `what` (lower-case, with the id or path) says what was tried.

    Of this `kind` (with `field`: InvalidRequest, naming that), unless something else is to blame: Exhausted
    at a limit of the host, Unavailable where nobody answered in time, Broken for a program.
    """
    if isinstance(error, ProgramFailed):
        return Broken(f"{what}: {error}", reason=reason)
    if isinstance(error, ToolMissing):
        return Broken(f"{what}: {error.tool}: {error.strerror}", reason=reason)
    if isinstance(error, Overdue):
        text = str(error)
        return Unavailable(text if text.startswith(what) else f"{what}: {text}", reason=reason)
    text = f"{what}: {why(error, what)}"
    if error.errno in _FULL:
        return Exhausted(text, reason=reason)
    return InvalidRequest(text, field=field, reason=reason) if field else kind(text, reason=reason)


@contextlib.contextmanager
def trying(what: str, kind: type[CribError] = Broken, *, field: str = "", reason: str = "") -> Iterator[None]:
    """Run a piece of work, and raise the `failure` that it ends with."""
    try:
        yield
    except (OSError, ProgramFailed) as error:
        raise failure(what, error, kind, field=field, reason=reason) from error


def _last_words(text: str) -> str:
    return text.strip()[-LONGEST_WORDS:] or "it said nothing"


def checked(what: str, completed: Completed, words: Callable[[str], str] = _last_words) -> Completed:
    """The result of a program, or Broken with what it said on stderr; `words` picks what counts of that."""
    if completed.timed_out:
        raise Broken(f"{what}: {completed.argv[0]} did not answer within {completed.duration:.0f} s")
    if completed.exit_code != 0:
        said = words(completed.stderr.decode("utf-8", "replace"))
        raise Broken(f"{what}: {said} (exit code {completed.exit_code} of {completed.argv[0]})")
    return completed


async def ours(job: Job | str, work: Callable[..., T], *args: object) -> T:
    """Run work in a thread of `OURS`, for callers that know model errors only.

    Unavailable, naming the job, where that raises Overdue.
    """
    try:
        return await OURS.run(job, work, *args)
    except Overdue as error:
        raise Unavailable(str(error)) from error


async def foreign(job: Job | str, work: Callable[..., T], *args: object) -> T:
    """The same with `FOREIGN`."""
    try:
        return await FOREIGN.run(job, work, *args)
    except Overdue as error:
        raise Unavailable(str(error)) from error
