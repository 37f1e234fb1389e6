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
from typing import Literal, TypeVar

from crib.host import libc
from crib.host.threads import OURS, Job, on_own_thread

Kind = Literal["net", "ipc", "uts", "mnt", "cgroup"]

_FLAGS: dict[str, int] = {
    "net": libc.CLONE_NEWNET,
    "ipc": libc.CLONE_NEWIPC,
    "uts": libc.CLONE_NEWUTS,
    "mnt": libc.CLONE_NEWNS,
    "cgroup": libc.CLONE_NEWCGROUP,
}
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


def run_in_namespace(namespace: str | int, kind: Kind, work: Callable[[], T]) -> T:
    """Run `work` in a thread inside a namespace (a path, or a descriptor of it) and return its result.

    Blocks for as long as `work` does. What it raises is raised here. Sockets and descriptors made inside stay
    usable.
    """
    return on_own_thread(lambda: _enter_and_run(namespace, kind, work))


async def run_in_namespace_async(namespace: str | int, kind: Kind, work: Callable[[], T]) -> T:
    """`run_in_namespace` without holding up the loop; when cancelled it still waits for the thread to end."""
    job = Job(f"work in the {kind} namespace {namespace}", str(namespace), _WAIT, spends_thread=True)
    return await OURS.run(job, _enter_and_run, namespace, kind, work)


def _pin(
    kinds: Sequence[Kind], directory: str, hostname: str | None, inside: Callable[[], None] | None
) -> dict[Kind, str]:
    if not kinds or not _PINNED_KINDS.issuperset(kinds):
        raise ValueError(f"namespaces that can be pinned are {sorted(_PINNED_KINDS)}, not {list(kinds)}")
    if hostname is not None and "uts" not in kinds:
        raise ValueError("a host name needs a new UTS namespace")
    flags = 0
    for kind in kinds:
        flags |= _FLAGS[kind]
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


def enter(namespace: str | int, kind: Kind) -> None:
    """Move the calling thread into a namespace (a path, or a descriptor of it).

    Only for a thread that ends with its work: whatever ran on it afterwards would run in there.
    """
    if kind not in _FLAGS:
        raise ValueError(f"a thread cannot enter a namespace of the kind {kind!r}")
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if isinstance(namespace, str) else namespace
    try:
        if kind == "mnt":
            # The kernel requires the thread to have its own root and working directory first.
            libc.unshare(libc.CLONE_FS)
        try:
            libc.setns(fd, _FLAGS[kind])
        except OSError as error:
            text = f"entering the {kind} namespace failed: {error.strerror}"
            raise OSError(error.errno, text, str(namespace)) from error
    finally:
        if fd is not namespace:
            os.close(fd)


def _enter_and_run(namespace: str | int, kind: Kind, work: Callable[[], T]) -> T:
    enter(namespace, kind)
    return work()
