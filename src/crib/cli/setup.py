"""`crib setup`: shows what `python -m crib.setup` found, and writes the files that it offers."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any

from crib.cli.forms import is_table
from crib.cli.output import clean, document, tell
from crib.cli.session import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.cli.config_options import SetupOptions

_MODE = 0o644
"""Of files that are new."""


def setup(options: SetupOptions) -> int:
    """Show what was found, or write; 1 if there is a problem."""
    command = [sys.executable, "-m", "crib.setup", *(["--file", options.file] if options.file else [])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise CommandError(f"the host could not be looked at: the exit code is {done.returncode}")
    found = json.loads(done.stdout)
    if options.write:
        _write(found["offers"], yes=options.yes)
        return 0
    if not is_table(options.output):
        document(found, options.output)
    else:
        _tell(found["findings"], everything=options.all)
    return 1 if any(one["state"] == "problem" for one in found["findings"]) else 0


def _tell(findings: list[dict[str, str]], *, everything: bool) -> None:
    area = ""
    for one in findings:
        if one["state"] == "ok" and not everything:
            continue
        if one["area"] != area:
            area = one["area"]
            tell(area)
        tell(f"  {one['state']:<8} {one['subject']}: {one['text']}")
        if one["cure"]:
            tell(f"           → {one['cure']}")
    count = Counter(one["state"] for one in findings)
    hidden = "" if everything else " (--all shows them)"
    tell(f"{count['problem']} problems, {count['note']} notes, {count['ok']} ok{hidden}")


def _write(offers: list[Mapping[str, Any]], *, yes: bool) -> None:
    if not offers:
        tell("nothing to write: the files are as they would be written")
    for offer in offers:
        path = offer["path"]
        before, after = (offer[name].splitlines(keepends=True) for name in ("before", "after"))
        old = path if offer["before"] else "/dev/null"
        for line in difflib.unified_diff(before, after, old, path):
            print(clean(line.rstrip("\n")))
        if not (yes or _agreed(path)):
            tell(f"left {path} as it is")
            continue
        _replace(path, offer["after"])
        tell(f"wrote {path}")
        if offer["then"]:
            tell(f"now run: {offer['then']}")


def _agreed(path: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("nothing was written: there is no terminal to ask; use --yes", 2)
    import typer

    return typer.confirm(f"write {path}?")


def _replace(path: str, text: str) -> None:
    """As a whole or not at all. A file that is there keeps its mode."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else _MODE
    file, temporary = tempfile.mkstemp(dir=directory, prefix=".crib-")
    try:
        with open(file, "w", encoding="utf-8") as output:
            output.write(text)
            os.fchmod(output.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
