"""Documents of the administrator that go into specs: a handler's base spec, and hooks of oci-hooks(5).

Files in directories are read when they are needed, and decoded when they change.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crib.backends.failures import failure, why
from crib.model.edits import AddedHook, ContainerEdits
from crib.model.errors import Broken
from crib.ocispec.base_spec import usable_part
from crib.ocispec.inputs import HookRule
from crib.wire import oci_hooks

_log = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_BYTES = 4 << 20
_MAX_FILES = 1000
"""Of one directory."""
_SETTLED = 0.1
"""Seconds after which a file's times would show another write. A file younger than that is read again."""
_Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class FoundFile(Generic[T]):
    """One file: its content, or what is wrong with it."""

    path: str
    content: T | None
    problem: str = ""


class SpecFiles(Generic[T]):
    """The files of some directories whose names end as they must. Blocks; a missing directory is empty."""

    def __init__(
        self, directories: Sequence[str], endings: tuple[str, ...], decode: Callable[[str, bytes], T]
    ) -> None:
        """`decode` gets path and content, and raises ValueError for what it does not like."""
        self.directories = tuple(directories)
        self._endings = endings
        self._decode = decode
        self._known: dict[str, tuple[_Stamp, FoundFile[T]]] = {}

    def read(self) -> list[FoundFile[T]]:
        """All files now, directory by directory, by name within each."""
        found = [self._file(path) for directory in self.directories for path in self._paths(directory)]
        here = {item.path for item in found}
        self._known = {path: known for path, known in self._known.items() if path in here}
        return found

    def _paths(self, directory: str) -> list[str]:
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(self._endings))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{directory.rstrip('/')}/{name}" for name in names if not name.startswith(".")][:_MAX_FILES]

    def _file(self, path: str) -> FoundFile[T]:
        try:
            # Nothing but a plain file: opening a fifo would wait for its writer.
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                known = self._known.get(path)
                if known is not None and known[0] == stamp:
                    return known[1]
                if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                    return FoundFile(path, None, f"it is not a plain file of at most {_MAX_BYTES} bytes")
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            return FoundFile(path, None, why(error, path))
        try:
            found = FoundFile(path, self._decode(path, data))
        except ValueError as error:
            found = FoundFile(path, None, str(error))
        if abs(time.time() - max(status.st_mtime, status.st_ctime)) > _SETTLED:
            self._known[path] = (stamp, found)
        return found


def read_base_spec(path: str, handler: str) -> Mapping[str, Any]:
    """What the handler's specs take from it; empty without a path. Broken names the file and the place."""
    if not path:
        return {}
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        base, dropped = usable_part(_decoded(data))
    except OSError as error:
        raise failure(f"handler {handler}: base_spec {path}", error) from error
    except (ValueError, RecursionError) as error:
        raise Broken(f"handler {handler}: base_spec {path}: {error}") from error
    if dropped:
        _log.info("handler %s: not taken from base_spec %s: %s", handler, path, ", ".join(dropped))
    return base


def _decoded(data: bytes) -> dict[str, Any]:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is longer than {_MAX_BYTES} bytes")
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the file is wrong, not our call
    return document


class HookFiles:
    """The administrator's rules; see setting `oci_hooks_dirs`. Blocks."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._files = SpecFiles(directories, (".json",), _rule)

    def rules(self) -> tuple[HookRule, ...]:
        """By file name; a file of a later directory replaces its namesake.

        Broken when one cannot be used: a hook that is silently left out may be one that guards something.
        """
        chosen: dict[str, FoundFile[HookRule]] = {os.path.basename(f.path): f for f in self._files.read()}
        rules = []
        for name in sorted(chosen):
            found = chosen[name]
            if found.content is None:
                raise Broken(f"OCI hook {found.path} cannot be used: {found.problem}")
            rules.append(found.content)
        return tuple(rules)


def _rule(path: str, data: bytes) -> HookRule:
    file = oci_hooks.decode(data)
    program = file.hook.path
    if not program.startswith("/") or not os.access(program, os.X_OK):
        raise ValueError(f"{program!r} is not the absolute path of a program")
    if not file.stages:
        raise ValueError("it names no stage")
    try:
        return HookRule(
            edits=ContainerEdits(
                origin=f"hook file {path}",
                hooks=tuple(
                    AddedHook(stage, program, file.hook.args, file.hook.env, file.hook.timeout)
                    for stage in dict.fromkeys(file.stages)
                ),
            ),
            always=file.when.always,
            annotations=tuple((re.compile(k), re.compile(v)) for k, v in file.when.annotations.items()),
            commands=tuple(re.compile(pattern) for pattern in file.when.commands),
            has_bind_mounts=file.when.has_bind_mounts,
        )
    except re.error as error:
        raise ValueError(f"{error.pattern!r} is not a regular expression: {error}") from error
