"""What crun, runc and conmon say when they cannot: cleaned, and told as the field of the request that asked.

A processor that is not there, a file mounted over a directory, a program that the image lacks: the runtime
meets these in the middle of a create, and says which. Limits of an update we write ourselves.
"""

from __future__ import annotations

import errno
import json
import os
import re

from crib.backends.failures import LONGEST_WORDS
from crib.backends.pods.updates import REFUSED_NUMBERS, limit_field
from crib.model.errors import CANNOT_RUN, NO_PROGRAM, Broken, CannotExecute, CribError, InvalidRequest
from crib.wire.crilog import parse_line

_TIME_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\S+Z: ", re.MULTILINE)
_RUNC_LINE = re.compile(
    r'^time="[^"]*" level=(\S+) msg="((?:[^"\\]|\\.)*)"((?: [\w.-]+=(?:"(?:[^"\\]|\\.)*"|[^\s"]*))*)$',
    re.MULTILINE,
)
"""Level, message, and the fields of logrus behind it, such as ` error="no such file"`."""
_RUNSC_LINE = re.compile(r'^\{"msg":"(?:[^"\\]|\\.)*","level":"\w+","time":"[^"]*"\}$', re.MULTILINE)
_ASIDES = {"warning", "info", "debug"}
_REFUSED_PROGRAM = re.compile(
    rb"(?:exec container process (?:\([^)]*\) )?`[^`]*`: .+"  # crun
    rb"|(?:standard_init_linux\.go:\d+: )?exec (?:user process caused(?: \"|: )|/[^:]*: ).+)"  # runc
)
_WORDS = "|".join(re.escape(os.strerror(number)) for number in REFUSED_NUMBERS)
_FILE = r"(?P<file>[a-z0-9_]+\.[A-Za-z0-9_.]+)"
_REFUSED = (
    # crun; its newest versions open these files by their bare names
    re.compile(rf"(?:writ(?:e|ing)|opening) file `(?:[^`]*/)?{_FILE}`[^:]*: (?:{_WORDS})", re.IGNORECASE),
    re.compile(rf"(?:write(?: to)?|open) `{_FILE}`: (?:{_WORDS})", re.IGNORECASE),
    re.compile(rf"(?:write|open) /sys/fs/cgroup/\S*/{_FILE}: (?:{_WORDS})", re.IGNORECASE),  # runc
)
_TOO_LITTLE = re.compile(
    r"OOM: the memory limit could be too low"  # crun
    r"|was OOM-killed \(memory limit too low\?\)|unable to set memory limit to \d+ \(current usage: "  # runc
)
_KIND = "|".join(os.strerror(number) for number in (errno.ENOTDIR, errno.EISDIR))
_PLACE = "|".join(
    os.strerror(number)
    for number in (
        *(errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST, errno.EPERM, errno.EACCES, errno.EXDEV),
        *(errno.ELOOP, errno.ENAMETOOLONG),
    )
)
_NO_FILE = re.escape(os.strerror(errno.ENOENT))
_REFUSED_EXECVE = "|".join(
    re.escape(os.strerror(number))
    for number in (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP)
)
_NO_EXECVE = {
    code: re.compile(
        # crun, a script whose interpreter is missing included
        rf"executable file `[^`]*` not found(?: in \$PATH)?: (?:{kind})|open executable: (?:{kind})"
        rf"|^exec: (?:{kind})|exec container process (?:\([^)]*\) )?`[^`]*`: (?:{kind})"
        # runc: found out before, and by execve
        rf'|exec: "[^"]*": (?:stat [^:]*: )?(?:{also}{kind})|^exec /[^:]*: (?:{kind})'
        # gVisor
        rf"|(?:failed to load|error finding executable|executing process).*: (?:{also}{kind})",
        re.IGNORECASE | re.MULTILINE,
    )
    for code, kind, also in (
        (NO_PROGRAM, _NO_FILE, "executable file not found|"),
        (CANNOT_RUN, _REFUSED_EXECVE, ""),
    )
}
_CONTEXT = "linux.security_context"
_PLACES = tuple(
    (re.compile(pattern, re.IGNORECASE), field)
    for pattern, field in (
        # crun; a mount that fails for any other reason may be one of ours
        (f"mount `[^`]*` to `[^`]*`: (?:{_KIND})", "mounts"),
        (f"mkdir(?:at)? `[^`]*`: (?:{_PLACE})", "mounts"),
        (rf"failed open\(\)ing /dev/null: (?:{_PLACE})", "mounts"),
        (f"mknod(?:at)? `[^`]*`: (?:{_PLACE})", "devices"),
        (f"open executable: (?:{_PLACE})", "command"),
        (rf"executable file `[^`]*` not found(?: in \$PATH)?: (?:{_PLACE})", "command"),
        ("the path `[^`]*` (?:is not a regular file|exists but it is not executable)", "command"),
        (f"chdir `[^`]*`: (?:{_PLACE})", "working_dir"),
        (f"^open `[^`/][^`]*`: (?:{_PLACE})", _CONTEXT),  # a masked or read-only path, below the root
        # runc
        (f'error mounting "[^"]*" to rootfs at .*: (?:{_KIND})', "mounts"),
        (f"error creating device nodes: .*: (?:{_PLACE})", "devices"),
        (f'exec: "[^"]*": (?:stat .*: )?(?:executable file not found|{_PLACE})', "command"),
        (f"chdir to cwd .* failed: (?:{_PLACE})", "working_dir"),
        (f"can't (?:mask|make) .*: (?:{_PLACE})", _CONTEXT),
        # conmon
        (f"Failed to open log file (?:{_PLACE})", "log_path"),
    )
)


def create_failure(what: str, words: str) -> CribError:
    """The error for a create that the runtime, or its monitor, explained with `words`."""
    field = _refused_by(words)
    return InvalidRequest(f"{what}: {words}", field=field) if field else Broken(f"{what}: {words}")


def _refused_by(words: str) -> str:
    if _TOO_LITTLE.search(words):
        return "linux.resources.memory_limit_in_bytes"
    for pattern in _REFUSED:
        if found := pattern.search(words):
            return f"linux.resources.{limit_field(found['file'])}"
    return next((field for pattern, field in _PLACES if pattern.search(words)), "")


def exec_failure(what: str, words: str) -> Broken:
    """The error for a command that the runtime did not start, or that execve(2) refused.

    No runtime has a code for it: crun and runc end with 255 whatever was wrong, and with 1 if execve refuses.
    """
    for code, pattern in _NO_EXECVE.items():
        if pattern.search(words):
            return CannotExecute(what, words, code)
    return Broken(f"{what}: {words}")


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

    plain = _RUNSC_LINE.sub(lambda line: json.loads(line[0])["msg"], _TIME_STAMP.sub("", text))
    return _RUNC_LINE.sub(message, plain).strip()[-LONGEST_WORDS:]


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
    return words.decode("utf-8", "replace") if _REFUSED_PROGRAM.fullmatch(words) else ""
