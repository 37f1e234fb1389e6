"""Limits of a process that reads hostile input; in a process of its own, as there is no way back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src"
PROGRAM = """
import resource, sys
sys.path.insert(0, {source!r})
from crib.host import privileges
privileges.limit(64, {memory})
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
bytearray(8 << 20)
try:
    bytearray(128 << 20)
    print("had it")
except MemoryError:
    print("too much")
"""


def run(memory: int) -> list[str]:
    program = PROGRAM.format(source=str(SOURCE), memory=memory)
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.splitlines()


def test_memory_beyond_the_limit_is_refused() -> None:
    assert run(64 << 20) == ["(0, 0) 64", "too much"]


def test_no_limit_of_memory_is_no_limit() -> None:
    assert run(0) == ["(0, 0) 64", "had it"]
