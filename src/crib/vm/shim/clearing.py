"""What is left of a pod's VM whose shim has gone: found and taken away, without a shim.

Programs die with the shim, and mounts with virtiofsd. Left are files, the redirection of the pod's packets,
and perhaps a program that the kernel has not ended yet.
"""

from __future__ import annotations

import contextlib
import os
import time

from crib.stubs.shim.task_pb2 import DeleteResponse
from crib.vm.shim.launch import undo
from crib.vm.shim.options import MOST_BYTES, OptionProblem, VmPlan, read_pod
from crib.vm.shim.processes import LOST_CODE


def clear_up(bundle: str, socket: str) -> None:
    """Undo what there is of a pod's. Safe to repeat. Blocks. OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    plan = VmPlan()
    with contextlib.suppress(OSError, OptionProblem), open(f"{bundle}/config.json", "rb") as file:
        plan = read_pod(file.read(MOST_BYTES))
    undo(plan, bundle)


def deleted() -> bytes:
    """What `delete` prints: whatever ran has ended."""
    answer = DeleteResponse(exit_status=LOST_CODE)
    answer.exited_at.FromNanoseconds(time.time_ns())
    return answer.SerializeToString()
