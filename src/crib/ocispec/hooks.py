"""OCI hooks: which of the administrator's rules a container meets (oci-hooks(5), version 1.0.0)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crib.model.edits import ContainerEdits
from crib.wire import oci_runtime as oci

_MATCHED = 4096
"""Characters of a text that patterns are tried on: annotations are a user's, and may be long."""


@dataclass(frozen=True, slots=True)
class HookRule:
    """One file of a hooks directory: what it adds, and the conditions, all of which must hold."""

    edits: ContainerEdits
    always: bool | None = None
    annotations: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = ()
    commands: tuple[re.Pattern[str], ...] = ()
    has_bind_mounts: bool | None = None

    def meets(self, spec: oci.Spec, *, bind_mounts: bool) -> bool:
        """Whether this container gets the hook. A rule without a condition is for none."""
        held = []
        if self.always is not None:
            held.append(self.always)
        for key, value in self.annotations:
            held.append(any(_found(key, k) and _found(value, v) for k, v in spec.annotations.items()))
        if self.commands:
            held.append(any(_found(pattern, spec.process.args[0]) for pattern in self.commands))
        if self.has_bind_mounts is not None:
            held.append(self.has_bind_mounts == bind_mounts)
        return bool(held) and all(held)


def _found(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text[:_MATCHED]) is not None
