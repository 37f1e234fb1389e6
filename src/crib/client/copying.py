"""Files to and from a container, as a tar archive that its own program `tar` writes or reads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from crib.client import streams
from crib.client.connection import Connection
from crib.client.errors import RuntimeFailure, Unavailable
from crib.client.packing import pack
from crib.client.streams import StreamOptions
from crib.client.unpacking import Naming, Problems, Unpacker

WORDS = 4 << 10
"""Bytes of what tar says that are kept."""
_NOT_THERE = (126, 127)
"""What shells and runtimes end with when there is no such program."""
_NO_PROGRAM = re.compile(r"executable file .* not found")
"""What others write to stderr then."""
_NO_EXEC = re.compile(r"not found|no such file", re.IGNORECASE)
"""Text in those errors that shows that there was no exec."""


@dataclass(frozen=True, slots=True)
class Container:
    """Where to copy to or from. Of `options` the transport counts."""

    connection: Connection
    id: str
    options: StreamOptions


async def archive_of(container: Container, path: str) -> AsyncGenerator[bytes, None]:
    """The archive of a path, as the container's tar writes it. RuntimeFailure with tar's words."""
    directory, name = split(path)
    # `./` before a name keeps one that begins with a dash from being an option.
    argv = ("tar", "cf", "-", "-C", directory, f"./{name}" if name != "." else ".")
    async with _tar(container, argv, stdin=False) as session:
        said = asyncio.ensure_future(_words(session.stderr))
        try:
            assert session.stdout is not None
            async for data in session.stdout:
                yield data
            await _check(session, said)
        finally:
            said.cancel()
            await asyncio.gather(said, return_exceptions=True)


async def unpack_in(container: Container, directory: str, archive: AsyncIterator[bytes]) -> None:
    """Have an archive unpacked in a directory of a container. RuntimeFailure with tar's words."""
    async with _tar(container, ("tar", "xpf", "-", "-C", directory), stdin=True) as session:
        reading = [asyncio.ensure_future(_words(said)) for said in (session.stderr, session.stdout)]
        try:
            assert session.stdin is not None
            with contextlib.suppress(Unavailable):  # tar has ended: the outcome says why
                async for data in archive:
                    await session.stdin.write(data)
                await session.stdin.close()
            await _check(session, reading[0])
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def download(container: Container, path: str, destination: str, max_bytes: int = 0) -> Problems:
    """Copy from a container, into `destination` if that is a directory, else under that name.

    The content of `path/.` goes into the directory `destination` itself, which is made if it is missing. With
    a trailing slash `destination` is never the name of a file. Returns the problems that did not stop the
    copy. ClientError, OSError.
    """
    name = os.fsencode(split(path)[1])
    naming, root = Naming((name,), (name,)), destination
    if name == b".":
        naming = Naming((), ())
        await asyncio.to_thread(os.makedirs, destination, exist_ok=True)
    elif not await asyncio.to_thread(os.path.isdir, destination):
        root, here = os.path.split(destination.rstrip("/"))
        naming = replace(naming, here=(os.fsencode(here),), is_directory=destination.endswith("/"))
        root = root or "."
    unpacker = Unpacker(root, naming, max_bytes)
    try:
        async with contextlib.aclosing(archive_of(container, path)) as archive:
            async for data in archive:
                await _to_end(unpacker.receive, data)
        await _to_end(unpacker.finish)
    finally:
        unpacker.close()
    if not unpacker.members:
        raise RuntimeFailure(f"{path}: the container's tar wrote nothing")
    return unpacker.problems


async def upload(container: Container, path: str, destination: str) -> Problems:
    """Copy to a container, into `destination` if that is a directory there, else under that name.

    The content of `path/.` goes into the directory `destination` itself. See `download`.
    """
    problems = Problems()
    is_content = os.path.basename(path) == "."
    if is_content or destination.endswith("/") or await _is_directory(container, destination):
        directory, name = destination, "." if is_content else os.path.basename(os.path.abspath(path))
    else:
        directory, name = split(destination)
    await asyncio.to_thread(os.stat, path)
    await unpack_in(container, directory, _pieces(path, name, problems))
    return problems


def split(path: str) -> tuple[str, str]:
    """A path in a container as directory and name; the name `.` means the directory's content."""
    directory, name = posixpath.split(path.rstrip("/") or "/")
    if name in ("", ".", ".."):
        return (path if name == ".." else directory) or ".", "."
    return directory or ".", name


async def _to_end(work: Callable[..., None], *args: object) -> None:
    """Run `work` in a thread. A cancelled caller waits for it first, before any clean-up."""
    running = asyncio.get_running_loop().run_in_executor(None, work, *args)
    try:
        await asyncio.shield(running)
    finally:
        await asyncio.wait([running])


async def _pieces(path: str, name: str, problems: Problems) -> AsyncIterator[bytes]:
    pieces = pack(path, name, problems)
    while data := await asyncio.to_thread(next, pieces, b""):
        yield data


@contextlib.asynccontextmanager
async def _tar(container: Container, argv: Sequence[str], *, stdin: bool) -> AsyncIterator[streams.Session]:
    options = replace(container.options, tty=False, stdin=stdin, stdout=True, stderr=True)
    async with streams.exec(container.connection, container.id, argv, options) as session:
        yield session


async def _check(session: streams.Session, said: asyncio.Future[bytes]) -> None:
    """Wait for tar. RuntimeFailure unless all went well."""
    try:
        code = await session.wait()
        words = (await said).decode("utf-8", "replace").strip() if code else ""
    except RuntimeFailure as error:
        if not _NO_EXEC.search(error.message):
            raise
        code, words = _NOT_THERE[0], error.message
    if code in _NOT_THERE or _NO_PROGRAM.search(words):
        raise RuntimeFailure(f"copying needs tar in the container: {words or f'running it gave {code}'}")
    if code:
        raise RuntimeFailure(f"tar in the container ended with {code}: {words or 'it does not say why'}")


async def _words(reader: streams.Reader | None) -> bytes:
    said = b""
    if reader is not None:
        async for data in reader:
            said += data[: WORDS - len(said)]
    return said


async def _is_directory(container: Container, path: str) -> bool:
    """Whether it is a directory, by the container's `test`; without a `test` it counts as a name."""
    try:
        async with streams.exec(
            container.connection, container.id, ("test", "-d", path), container.options
        ) as session:
            reading = asyncio.gather(_words(session.stdout), _words(session.stderr))
            code = await session.wait()
            await reading
            return code == 0
    except RuntimeFailure:
        return False
