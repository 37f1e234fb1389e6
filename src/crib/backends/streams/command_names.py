"""Names of commands in containers. What is called so, and not by this daemon, an earlier one has left."""

from __future__ import annotations

import itertools
import re
import secrets

_LIFE = secrets.token_hex(3)
_OF_OTHERS = re.compile(rf"(exec-(?!{_LIFE}-)[0-9a-f]+-\d+)([-.]\w+)?")
_serials = itertools.count()


def new_name() -> str:
    """Of a command: its cgroup and its files are called so, and no other daemon's are. Short, for sockets."""
    return f"exec-{_LIFE}-{next(_serials)}"


def earlier_name(name: str) -> str:
    """The command of an earlier daemon to which a file or cgroup belongs; empty for everything else."""
    found = _OF_OTHERS.fullmatch(name)
    return found[1] if found else ""
