"""Namespaces without a process in them: made by a thread that ends, held by bind mounts, entered by threads
that end.

A thread that changed a namespace is of no use to anybody else, so each piece of work gets a fresh thread and
never one of an executor (namespaces(7): network, IPC and UTS namespaces belong to the thread; user and pid
namespaces cannot be made or entered in this way).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from crib.host import libc
from crib.host.entering import FLAGS, Kind, enter, enter_and_run, on_own_thread, run_in_namespace
from crib.host.threads import OURS, Job

__all__ = [
    "Kind",
    "enter",
    "pin",
    "pin_namespaces",
    "pin_namespaces_async",
    "run_in_namespace",
    "run_in_namespace_async",
    "unpin",
]

_WAIT = 10.0
_PINNED_KINDS = frozenset({"net", "ipc", "uts", "cgroup"})

T = TypeVar("T")


def pin_namespaces(
    kinds: Sequence[Kind],
    directory: str,
    *,
    hostname: str | None = None,
    inside: Callable[[], None] | None = None,
) -> dict[Kind, str]:
    """Make new namespaces and pin each at `directory`/KIND; blocks for about a millisecond.

    `hostname` is set in the new UTS namespace. `inside` runs in the thread that is inside all of them: the
    place for sysctls and for bringing loopback up. If anything fails, nothing stays pinned and the error is
    raised. FileExistsError if a pin exists. `directory` should be below a private mount
    (`mounts.make_private_root`, unbindable), or other mount namespaces keep the pins alive.
    """
    return on_own_thread(lambda: _pin(kinds, directory, hostname, inside))


async def pin_namespaces_async(
    kinds: Sequence[Kind],
    directory: str,
    *,
    hostname: str | None = None,
    inside: Callable[[], None] | None = None,
) -> dict[Kind, str]:
    """`pin_namespaces` without holding up the loop. When cancelled it waits for the thread, then unpins."""
    made: dict[Kind, str] = {}

    def work() -> None:
        made.update(_pin(kinds, directory, hostname, inside))

    def unmake() -> None:
        for path in made.values():
            unpin(path)

    job = Job(f"making namespaces at {directory}", directory, _WAIT, late=unmake, spends_thread=True)
    try:
        await OURS.run(job, work)
    except asyncio.CancelledError:
        unmake()
        raise
    return made


def unpin(path: str) -> None:
    """Let go of a pinned namespace and remove its file; safe to repeat. It ends with its last user."""
    with contextlib.suppress(FileNotFoundError):
        while _detach(path):
            pass
        os.unlink(path)


async def run_in_namespace_async(namespace: str | int, kind: Kind, work: Callable[[], T]) -> T:
    """`run_in_namespace` without holding up the loop; when cancelled it still waits for the thread to end."""
    job = Job(f"work in the {kind} namespace {namespace}", str(namespace), _WAIT, spends_thread=True)
    return await OURS.run(job, enter_and_run, namespace, kind, work)


def _pin(
    kinds: Sequence[Kind], directory: str, hostname: str | None, inside: Callable[[], None] | None
) -> dict[Kind, str]:
    if not kinds or not _PINNED_KINDS.issuperset(kinds):
        raise ValueError(f"namespaces that can be pinned are {sorted(_PINNED_KINDS)}, not {list(kinds)}")
    if hostname is not None and "uts" not in kinds:
        raise ValueError("a host name needs a new UTS namespace")
    flags = 0
    for kind in kinds:
        flags |= FLAGS[kind]
    libc.unshare(flags)
    if hostname is not None:
        libc.sethostname(hostname)
    if inside is not None:
        inside()
    pinned: dict[Kind, str] = {}
    try:
        for kind in kinds:
            pin(f"/proc/thread-self/ns/{kind}", f"{directory}/{kind}")
            pinned[kind] = f"{directory}/{kind}"
    except BaseException:
        for path in pinned.values():
            unpin(path)
        raise
    return pinned


def pin(namespace: str, path: str) -> None:
    """Hold a namespace (its file below /proc) at `path`, a new file; FileExistsError if it exists."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        libc.mount(namespace, path, None, libc.MS_BIND)
    except BaseException:
        os.unlink(path)
        raise


def _detach(path: str) -> bool:
    try:
        libc.umount2(path, libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # not a mount (any more)
            return False
        raise
    return True
