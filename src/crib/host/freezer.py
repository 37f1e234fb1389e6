"""The freezer of a cgroup: stopping its processes, whether it has, and letting them go on.

Sources: kernel, admin-guide/cgroup-v1/freezer-subsystem (`freezer.state`) and admin-guide/cgroup-v2
(`cgroup.freeze`, `frozen` in `cgroup.events`). A frozen process of v1 does not even die from SIGKILL; one of
v2 does.
"""

from __future__ import annotations

import contextlib
import errno
import time

from crib.host.cgroups import CgroupLayout
from crib.host.files import read_small

_LIMIT = 4096
_LOOK_AGAIN = 0.005
"""Seconds between two looks at whether all processes have stopped."""


class Freezer:
    """Asks and thaws; each call is a file operation of some 10 µs. Paths as in `cgroups`."""

    def __init__(self, layout: CgroupLayout) -> None:
        self._v1 = layout.controllers.get("freezer")
        self._v2 = layout.unified if self._v1 is None else None

    def is_frozen(self, path: str) -> bool:
        """Whether its processes are frozen or about to be, by this group or one above; False if it is
        gone.
        """
        if self._v1 is not None:
            return self._read(f"{self._v1}{path}/freezer.state").strip() in ("FROZEN", "FREEZING")
        if self._v2 is None:
            return False
        if self._read(f"{self._v2}{path}/cgroup.freeze").strip() == "1":
            return True
        return "frozen 1" in self._read(f"{self._v2}{path}/cgroup.events").splitlines()

    def freeze(self, path: str, seconds: float) -> None:
        """Stop its processes; returns when all of them are. Blocks, TimeoutError after `seconds`: one that
        waits for a disk stops only when that has answered. It is left as it is then, to be thawed.
        """
        name, word = ("freezer.state", "FROZEN") if self._v1 is not None else ("cgroup.freeze", "1")
        with open(f"{self._v1 or self._v2}{path}/{name}", "w") as file:
            file.write(word)
        until = time.monotonic() + seconds
        while not self._all_stopped(path):
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, f"not all processes stopped within {seconds:.0f} s", path)
            time.sleep(_LOOK_AGAIN)  # v1 tells nobody, and goes on with it only when it is asked

    def _all_stopped(self, path: str) -> bool:
        if self._v1 is not None:
            return self._read(f"{self._v1}{path}/freezer.state").strip() == "FROZEN"
        return "frozen 1" in self._read(f"{self._v2}{path}/cgroup.events").splitlines()

    def thaw(self, path: str) -> bool:
        """Let its processes go on; False when it stays frozen, because a group above it is."""
        name, word = ("freezer.state", "THAWED") if self._v1 is not None else ("cgroup.freeze", "0")
        with contextlib.suppress(OSError), open(f"{self._v1 or self._v2}{path}/{name}", "w") as file:
            file.write(word)
        return not self.is_frozen(path)

    def _read(self, path: str) -> str:
        try:
            return read_small(path, _LIMIT).decode("utf-8", "replace")
        except OSError:
            return ""
