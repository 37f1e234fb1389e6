"""The files of a hooks directory: oci-hooks(5) of the containers project, version 1.0.0."""

from __future__ import annotations

from typing import Literal

import msgspec

from crib.wire.oci_runtime import Hook

Stage = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


class When(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The conditions, all of which must hold; what is None is no condition."""

    always: bool | None = None
    annotations: dict[str, str] = {}
    """Regular expressions for key and value."""
    commands: tuple[str, ...] = ()
    """Regular expressions for the first argument."""
    has_bind_mounts: bool | None = None


class HookFile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A whole file."""

    version: Literal["1.0.0"]
    hook: Hook
    when: When
    stages: tuple[Stage, ...]


def decode(data: bytes) -> HookFile:
    """A file's content; ValueError, with the place, for anything that is not right in it."""
    return msgspec.json.decode(data, type=HookFile)
