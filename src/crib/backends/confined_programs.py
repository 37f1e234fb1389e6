"""Programs of ours that read what others may have made: each a process that can reach next to nothing.

It is given its files by descriptor only, confines itself before it reads them (`host.confinement`), does one
thing, and says how it went by a message on its output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import msgspec

import crib
from crib.host import processes

_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from {0} import main; main(sys.argv[1:])"


async def run_confined(
    module: str, arguments: Sequence[str], descriptors: tuple[int, ...], *, seconds: float, most: int
) -> bytes:
    """What `main` of the module has said, `most` bytes of it. Its last argument is our pid: it ends with us.

    ProgramFailed when it did not end well, or not within `seconds`.
    """
    top = os.path.dirname(os.path.dirname(os.path.abspath(crib.__file__)))
    completed = await processes.run(
        [sys.executable, "-I", "-c", _START.format(module), top, *arguments, str(os.getpid())],
        timeout=seconds,
        env={"LANG": "C.UTF-8"},
        options=processes.RunOptions(output_limit=most, pass_fds=descriptors, cwd="/"),
    )
    return completed.check().stdout


ANSWER_ERRORS = (processes.ProgramFailed, msgspec.MsgspecError, ValueError)
"""What running one, and decoding its message, raises beside OSError."""
