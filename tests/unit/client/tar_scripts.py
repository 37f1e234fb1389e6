"""Containers' tar, played by a test."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Awaitable, Callable

from tests.unit.streaming.lab import Command


def members(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()


def tar_that(archive: bytes, code: int = 0, words: bytes = b"") -> Callable[[Command], Awaitable[int]]:
    async def script(command: Command) -> int:
        assert command.stderr is not None
        await command.say(archive)
        await command.stderr.write(words)
        return code

    return script


class Unpacking:
    """A container with `test` and `tar`; `directories` are those that it has."""

    def __init__(self, *directories: str) -> None:
        self._directories = directories
        self.archive = b""
        self.where = ""

    async def __call__(self, command: Command) -> int:
        argv = command.wanted.argv  # type: ignore[union-attr]  # it is an exec
        if argv[0] == "test":
            return int(argv[2] not in self._directories)
        assert argv[:4] == ("tar", "xpf", "-", "-C")
        assert command.stdin is not None
        self.where, self.archive = argv[4], await command.stdin.read_all()
        return 0

    def names(self) -> list[str]:
        return [self.where, *(info.name for info in members(self.archive))]
