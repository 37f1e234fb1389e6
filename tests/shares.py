"""Numbers of which a machine has each once (ports, subnets), for tests that run in parallel."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# One that takes the place of a worker that crashed has a number of its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS


def own_share(count: int) -> Iterator[int]:
    """Numbers below `count`, without end. None comes twice before all have come, and none in another process
    of this run; it begins anywhere, as there may be other runs on the same machine.
    """
    share = count // _WORKERS
    for turn in itertools.count(secrets.randbelow(share)):
        yield _WORKER * share + turn % share
