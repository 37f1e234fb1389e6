"""Names of commands in containers. What is called so, and not by this daemon, an earlier one has left."""

from __future__ import annotations

import functools
import itertools
import re
import secrets

_OF_COMMANDS = re.compile(r"(exec-([0-9a-f]+)-\d+)([-.]\w+)?")
_serials = itertools.count()


@functools.cache
def _life() -> str:
    """This daemon's. Drawn at its first use: daemons may be forked from what has imported this module."""
    return secrets.token_hex(3)


def new_name() -> str:
    """Of a command: its cgroup and its files are called so, and no other daemon's are. Short, for sockets."""
    return f"exec-{_life()}-{next(_serials)}"


def earlier_name(name: str) -> str:
    """The command of an earlier daemon to which a file or cgroup belongs; empty for everything else."""
    found = _OF_COMMANDS.fullmatch(name)
    return found[1] if found and found[2] != _life() else ""
