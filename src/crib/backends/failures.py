"""The border: what goes wrong in files, mounts and programs becomes one of our errors that says what was
tried.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from crib.host.processes import Completed, ProgramFailed, ToolMissing
from crib.host.threads import Overdue
from crib.model.errors import Broken, Exhausted, Unavailable
from crib.wire.crilog import parse_line

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_TIME_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\S+Z: ", re.MULTILINE)
_RUNC_LINE = re.compile(
    r'^time="[^"]*" level=(\S+) msg="((?:[^"\\]|\\.)*)"((?: [\w.-]+=(?:"(?:[^"\\]|\\.)*"|[^\s"]*))*)$',
    re.MULTILINE,
)
"""Level, message, and the fields of logrus behind it, such as ` error="no such file"`."""
_ASIDES = {"warning", "info", "debug"}
_LONGEST = 2000
_REFUSED = re.compile(
    rb"(?:exec container process (?:\([^)]*\) )?`[^`]*`: .+"  # crun
    rb"|(?:standard_init_linux\.go:\d+: )?exec (?:user process caused(?: \"|: )|/[^:]*: ).+)"  # runc
)


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


def runtime_words(text: str) -> str:
    """What an OCI runtime said on stderr or in its log, without its time stamps, at most 2,000 characters.

    What it warned of counts only if it said nothing else.
    """
    return words_of_failure(text) or _plain(text, asides=True) or "it said nothing"


def words_of_failure(text: str) -> str:
    """The same without the warnings; empty when there is nothing else."""
    return _plain(text, asides=False)


def _plain(text: str, *, asides: bool) -> str:
    def message(match: re.Match[str]) -> str:
        return "" if match[1] in _ASIDES and not asides else f"{match[2]}{match[3]}".replace('\\"', '"')

    return _RUNC_LINE.sub(message, _TIME_STAMP.sub("", text)).strip()[-_LONGEST:]


def refused_program(log: bytes) -> str:
    """What the runtime said when execve(2) of the program failed; empty when `log` has anything else in it.

    By then the start has succeeded, and the words are in the container's own log (a script without its
    interpreter, a program for another kind of processor). A program that writes such a line and nothing else
    only describes itself.
    """
    line, newline, rest = log.partition(b"\n")
    if not newline or rest:
        return ""
    try:
        words = parse_line(line).content.strip()
    except ValueError:
        return ""
    return words.decode("utf-8", "replace") if _REFUSED.fullmatch(words) else ""


def checked(what: str, completed: Completed) -> Completed:
    """The result of a runtime's command, or Broken with the runtime's own words."""
    if completed.timed_out:
        raise Broken(f"{what}: {completed.argv[0]} did not answer within {completed.duration:.0f} s")
    if completed.exit_code != 0:
        words = runtime_words(completed.stderr.decode("utf-8", "replace"))
        raise Broken(f"{what}: {words} (exit code {completed.exit_code} of {completed.argv[0]})")
    return completed
