from __future__ import annotations

import os
from dataclasses import replace

from crib.backends.known_processes import identity, is_alive


def test_process_is_known_by_pid_and_start() -> None:
    found = identity(os.getpid())
    assert found is not None
    assert is_alive(found)
    assert not is_alive(replace(found, start_time=found.start_time + 1))
    assert not is_alive(None)
