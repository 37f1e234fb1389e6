"""The border: what goes wrong in files, mounts and programs becomes one of our errors that says what was
tried.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator

from crib.host.processes import Completed, ProgramFailed, ToolMissing
from crib.host.threads import Overdue
from crib.model.errors import Broken, Exhausted, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
LONGEST_WORDS = 2000
"""Characters of what a program said that are told."""


@contextlib.contextmanager
def trying(what: str) -> Iterator[None]:
    """Run a piece of work; `what` (lower-case, with the id) begins the message of what it raises."""
    try:
        yield
    except ToolMissing as error:
        raise Broken(f"{what}: {error.tool}: {error.strerror}") from error
    except ProgramFailed as error:
        raise Broken(f"{what}: {error}") from error
    except Overdue as error:
        text = str(error)
        raise Unavailable(text if text.startswith(what) else f"{what}: {text}") from error
    except OSError as error:
        text = f"{what}: {error.filename}: {error.strerror}" if error.filename else f"{what}: {error}"
        raise (Exhausted(text) if error.errno in _FULL else Broken(text)) from error


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
