"""OCI hooks: which of the administrator's rules a container meets (oci-hooks(5), version 1.0.0)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from crib.wire import oci_runtime as oci
from crib.wire.oci_runtime import Hook, Hooks

STAGES: Mapping[str, str] = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}
"""Stage as a document calls it, to the field of `Hooks`."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MATCHED = 4096
"""Characters of a text that patterns are tried on: annotations are a user's, and may be long."""


@dataclass(frozen=True, slots=True)
class HookRule:
    """One file of a hooks directory: a program, its moments, and the conditions, all of which must hold."""

    hook: Hook
    stages: tuple[str, ...]
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


def with_rules(spec: oci.Spec, rules: Sequence[HookRule], *, bind_mounts: bool) -> oci.Spec:
    """The spec with the hooks of every rule that it meets, in the rules' order."""
    for rule in rules:
        if rule.meets(spec, bind_mounts=bind_mounts):
            added = Hooks(**{STAGES[stage]: (rule.hook,) for stage in rule.stages})
            spec = msgspec.structs.replace(spec, hooks=joined(spec.hooks, added))
    return spec


def joined(one: Hooks | None, other: Hooks | None) -> Hooks | None:
    """The hooks of both, stage by stage; none gets the container's environment for want of its own."""
    if other is None or other == Hooks():
        return one
    first = one or Hooks()
    return Hooks(
        **{
            name: (*getattr(first, name), *(_with_path(hook) for hook in getattr(other, name)))
            for name in STAGES.values()
        }
    )


def _with_path(hook: Hook) -> Hook:
    return hook if hook.env else msgspec.structs.replace(hook, env=(_PATH,))


def _found(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text[:_MATCHED]) is not None
