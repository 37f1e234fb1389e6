"""Hooks from directories of oci-hooks(5) files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from crib.backends.bundle.spec_files import FoundFile, SpecFiles
from crib.model.edits import AddedHook, ContainerEdits
from crib.model.errors import Broken
from crib.ocispec.hooks import HookRule
from crib.wire import oci_hooks


class HookFiles:
    """The administrator's rules; see setting `oci_hooks_dirs`. Blocks."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._files = SpecFiles(directories, (".json",), _rule)

    def rules(self) -> tuple[HookRule, ...]:
        """By file name, a later directory's in the place of its namesake.

        Broken when one cannot be used: a hook that is left out in silence may be one that guards something.
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
