"""Where the fifos of a container's processes lie: in its bundle, so that they go with it.

Shims of the first versions look at the path of standard output for a URL: it has no characters that a URL
would escape.
"""

from __future__ import annotations

from crib.backends.shim.nouns import Stdio
from crib.model.ids import ContainerId
from crib.model.paths import Paths


def fifo_directory(paths: Paths, container: ContainerId) -> str:
    """The directory of all fifos of a container."""
    return f"{paths.container(container)}/io"


def stdio(paths: Paths, container: ContainerId, exec_id: str = "", *, stdin: bool, terminal: bool) -> Stdio:
    """Those of the first process, or of an exec; a terminal's output is all on `stdout`."""
    stem = f"{fifo_directory(paths, container)}/{exec_id or 'init'}"
    return Stdio(
        stdin=f"{stem}-stdin" if stdin else "",
        stdout=f"{stem}-stdout",
        stderr="" if terminal else f"{stem}-stderr",
        terminal=terminal,
    )


def contained_mark(stdio: Stdio) -> str:
    """A file that says of an exec that it is contained, where no cgroup of this host does.

    By it the next daemon knows that nobody waits for its outcome.
    """
    return f"{stdio.stdout.removesuffix('-stdout')}-contained"
