"""User namespaces, with the namespaces that they own: made by a program that waits, then held by bind mounts.

A process with threads can neither make nor enter a user namespace (unshare(2), setns(2)), so a small program
does. `unshare` makes all of them in one system call: the kernel makes the user namespace first, and it owns
the others. Then `cat` reports that they exist, and ends as soon as we close its input. So nothing stays
behind if we die in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from crib.host import libc
from crib.host.namespaces import Kind, enter, pin, unpin
from crib.host.processes import Child, SpawnOptions, spawn
from crib.host.threads import OURS, Job

_OPTIONS: dict[Kind, str] = {"net": "--net", "ipc": "--ipc", "uts": "--uts"}
_WAIT = 10.0
_WORDS = 512


@dataclass(frozen=True, slots=True)
class IdRange:
    """A range of ids: those from `inside` on are those from `outside` on, `length` of them."""

    inside: int
    outside: int
    length: int


@dataclass(frozen=True, slots=True)
class IdMaps:
    """What a user namespace's users and groups are outside of it (user_namespaces(7))."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]


async def pin_user_namespace(
    maps: IdMaps,
    kinds: Sequence[Kind],
    directory: str,
    *,
    hostname: str | None = None,
    inside: Callable[[], None] | None = None,
) -> None:
    """Make a user namespace with these maps and namespaces of `kinds` that belong to it; pin all of them.

    They are at `directory`/user and `directory`/KIND. `hostname` is set in the new UTS namespace; `inside`
    runs in a thread that is in all of them but the user namespace, so with the daemon's own rights. When
    anything fails nothing is left pinned. ToolMissing without util-linux; OSError with the kernel's words
    (ENOSPC: /proc/sys/user/max_user_namespaces).
    """
    pinned: list[str] = []
    try:
        async with _held(maps, kinds) as child:
            for kind in ("user", *kinds):
                path = f"{directory}/{kind}"
                pin(f"/proc/{child.pid}/ns/{kind}", path)
                pinned.append(path)
        if kinds:
            job = Job(f"work in the namespaces at {directory}", directory, _WAIT, spends_thread=True)

            def work() -> None:
                _enter(kinds, directory)
                if "ipc" in kinds:
                    _give_queues(maps)
                if hostname is not None:
                    libc.sethostname(hostname)
                if inside is not None:
                    inside()

            await OURS.run(job, work)
    except BaseException:
        for path in pinned:
            unpin(path)
        raise


@contextlib.asynccontextmanager
async def open_user_namespace(maps: IdMaps) -> AsyncIterator[int]:
    """A descriptor of a new user namespace with these maps, which ends with the last who uses it."""
    async with _held(maps, ()) as child:
        fd = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _enter(kinds: Sequence[Kind], directory: str) -> None:
    for kind in kinds:
        enter(f"{directory}/{kind}", kind)


def _give_queues(maps: IdMaps) -> None:
    """The file system of this IPC namespace's message queues (mq_overview(7)) gets the new root as its owner.

    It belongs to the user who made the namespace: the node's root, which does not exist among the new users.
    Root of a pod could not change it, and a runtime could not label it.
    """
    with contextlib.ExitStack() as opened:
        context = libc.fsopen("mqueue")
        opened.callback(os.close, context)
        libc.fsconfig_create(context)
        mount = libc.fsmount(context, 0)
        opened.callback(os.close, mount)
        os.chown(f"/proc/self/fd/{mount}", _root(maps.uids), _root(maps.gids))


def _root(ranges: Sequence[IdRange]) -> int:
    """The id outside for 0 inside; -1, which changes nothing, if it is not mapped."""
    return next((part.outside for part in ranges if part.inside == 0), -1)


@contextlib.asynccontextmanager
async def _held(maps: IdMaps, kinds: Sequence[Kind]) -> AsyncIterator[Child]:
    """A process inside of new namespaces, for as long as the block lasts."""
    with contextlib.ExitStack() as sockets:
        (ours, given), (said, told) = (socket.socketpair() for _ in range(2))
        for end in (ours, given, said, told):
            sockets.enter_context(contextlib.closing(end))
            end.setblocking(end in (given, told))
        options = SpawnOptions(
            given.fileno(), told.fileno(), told.fileno(), env={**os.environ, "LC_ALL": "C"}
        )
        argv = ("unshare", "--user", *(_OPTIONS[kind] for kind in kinds), "cat")
        child = spawn(argv, options)
        try:
            given.close()
            told.close()
            try:
                async with asyncio.timeout(_WAIT):
                    await _wait_until_made(ours, said)
            except TimeoutError as error:
                raise TimeoutError(f"a user namespace was not made within {_WAIT:.0f} s") from error
            _write_maps(child.pid, maps)
            yield child
        finally:
            child.kill()
            await child.wait(_WAIT)


async def _wait_until_made(ours: socket.socket, said: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(BrokenPipeError):
        await loop.sock_sendall(ours, b"\n")
    words = await loop.sock_recv(said, _WORDS)
    if words != b"\n":
        text = words.decode("utf-8", "replace").strip() or "unshare ended at once"
        raise OSError(f"a user namespace cannot be made: {text}")


def _write_maps(pid: int, maps: IdMaps) -> None:
    for name, ranges in (("uid_map", maps.uids), ("gid_map", maps.gids)):
        text = "".join(f"{part.inside} {part.outside} {part.length}\n" for part in ranges)
        # One write: a map can be set once only (user_namespaces(7)).
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode("ascii"))
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror} for {text.strip()!r}", f"/proc/{pid}/{name}"
            ) from error
        finally:
            os.close(fd)
