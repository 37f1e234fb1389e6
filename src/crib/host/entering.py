"""Work in threads of their own, and in namespaces: for whoever has no event loop, and imports none.

A thread that changed a namespace is of no use to anybody else, so each piece of work gets a fresh one.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

from crib.host import libc

Kind = Literal["net", "ipc", "uts", "mnt", "cgroup"]

FLAGS: dict[str, int] = {
    "net": libc.CLONE_NEWNET,
    "ipc": libc.CLONE_NEWIPC,
    "uts": libc.CLONE_NEWUTS,
    "mnt": libc.CLONE_NEWNS,
    "cgroup": libc.CLONE_NEWCGROUP,
}
LIMIT = 30.0
"""Seconds that work in a thread of its own may take."""

T = TypeVar("T")


def on_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that ends with it, and wait. For work that changes its thread permanently."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=body, name="own", daemon=True)
    thread.start()
    thread.join(LIMIT)
    if thread.is_alive():
        text = f"work in its own thread takes more than {LIMIT:g} s, and is abandoned"
        raise TimeoutError(errno.ETIMEDOUT, text)
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # or the traceback and this frame keep each other alive
    return results[0]


def run_in_namespace(namespace: str | int, kind: Kind, work: Callable[[], T]) -> T:
    """Run `work` in a thread inside a namespace (a path, or a descriptor of it) and return its result.

    Blocks for as long as `work` does. What it raises is raised here. Sockets and descriptors made inside stay
    usable.
    """
    return on_own_thread(lambda: enter_and_run(namespace, kind, work))


def enter(namespace: str | int, kind: Kind) -> None:
    """Move the calling thread into a namespace (a path, or a descriptor of it).

    Only for a thread that ends with its work: whatever ran on it afterwards would run in there.
    """
    if kind not in FLAGS:
        raise ValueError(f"a thread cannot enter a namespace of the kind {kind!r}")
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if isinstance(namespace, str) else namespace
    try:
        if kind == "mnt":
            # The kernel requires the thread to have its own root and working directory first.
            libc.unshare(libc.CLONE_FS)
        try:
            libc.setns(fd, FLAGS[kind])
        except OSError as error:
            text = f"entering the {kind} namespace failed: {error.strerror}"
            raise OSError(error.errno, text, str(namespace)) from error
    finally:
        if fd is not namespace:
            os.close(fd)


def enter_and_run(namespace: str | int, kind: Kind, work: Callable[[], T]) -> T:
    """What `work` returns inside; for a thread that ends with it."""
    enter(namespace, kind)
    return work()
