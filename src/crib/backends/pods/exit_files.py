"""How containers have ended, on file in their bundles: then a shim may forget a container."""

from __future__ import annotations

import json

from crib.host.files import atomic_write
from crib.model.container import Exit
from crib.model.ends import OomKill, OomLevel
from crib.model.ids import ContainerId

_NAME = "exit.json"
_LIMIT = 65536


def write_exit(bundle: str, exit_: Exit) -> None:
    """Blocks. FileNotFoundError when the bundle is gone."""
    oom = exit_.oom
    document = {
        "code": exit_.code,
        "at": exit_.at,
        "oomKilled": exit_.oom_killed,
        "oom": None
        if oom is None
        else [oom.level.value, oom.cgroup, oom.limit, oom.pid, oom.process, oom.memory, oom.is_logged],
        "lost": exit_.lost,
        "neverRan": exit_.never_ran,
        "why": exit_.why,
    }
    atomic_write(f"{bundle}/{_NAME}", json.dumps(document).encode(), 0o600)


def read_exit(bundle: str, container: ContainerId) -> Exit | None:
    """None when there is none, or it is torn. Blocks."""
    try:
        with open(f"{bundle}/{_NAME}", "rb") as file:
            document = json.loads(file.read(_LIMIT))
        oom = document["oom"]
        return Exit(
            container,
            int(document["code"]),
            int(document["at"]),
            oom_killed=bool(document["oomKilled"]),
            oom=None if oom is None else OomKill(OomLevel(oom[0]), *oom[1:]),
            lost=bool(document["lost"]),
            never_ran=str(document["neverRan"]),
            why=str(document["why"]),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
        return None
