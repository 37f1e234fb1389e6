"""What the administrator can set of a handler of the kind `shim`, and what containerd's own shim takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from crib.model.keys import OneOf

RUNC = "io.containerd.runc.v2"
"""The runtime whose shim runs crun, runc and what else has their command line."""
RUNC_OPTIONS: Mapping[str, type] = {
    "BinaryName": str,
    "Root": str,
    "SystemdCgroup": bool,
    "NoPivotRoot": bool,
    "NoNewKeyring": bool,
    "ShimCgroup": str,
    "IoUid": int,
    "IoGid": int,
    "CriuImagePath": str,
    "CriuWorkPath": str,
}
"""Options of its shim (containerd.runc.v1.Options, as containerd's configuration names them)."""
_NAME = re.compile(r"[^./\s][^/\s]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_PROGRAM = re.compile(r"containerd-shim-(?P<name>.+)-(?P<version>[^-]+)")
_OWN_KERNEL = ("runsc", "kata")

OptionValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class ShimSettings:
    """Keys of a handler that only the kind `shim` has."""

    runtime: str = ""
    """Of kind `shim`: a name such as io.containerd.runc.v2, whose shim is found on PATH, or a shim's path."""
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    """Of kind `shim`: options of the runtime, as in containerd's configuration."""
    sandbox_service: Annotated[str, OneOf(("detect", "always", "never"))] = "detect"
    """Of kind `shim`: whether pods that begin with a sandbox container are made by the shim's sandbox service
    instead: `always`, `never`, or `detect` (where the shim has that service)."""


def runtime_problem(runtime: str) -> str:
    """What the name or path of a runtime must be; empty for a good one."""
    if runtime.startswith("/") or _NAME.fullmatch(runtime):
        return ""
    return f"{runtime!r} is neither a path nor a name such as {RUNC}"


def program_name(runtime: str) -> str:
    """Of the shim: containerd-shim-runc-v2 of io.containerd.runc.v2 (containerd, docs/runtime-v2.md)."""
    if runtime.startswith("/"):
        return runtime
    name, version = runtime.split(".")[-2:]
    return f"containerd-shim-{name}-{version}"


def is_runc(runtime: str) -> bool:
    """Whether it is containerd's own shim, also when that is named by its path."""
    found = _PROGRAM.fullmatch(program_name(runtime).rpartition("/")[2])
    return found is not None and found["name"] == "runc"


def has_own_kernel(runtime: str) -> bool:
    """Whether its pods run on a kernel of their own: gVisor's and Kata's shims."""
    found = _PROGRAM.fullmatch(program_name(runtime).rpartition("/")[2])
    return found is not None and found["name"].startswith(_OWN_KERNEL)


def option_problems(runtime: str, options: Mapping[str, OptionValue]) -> dict[str, str]:
    """What is wrong with options, by their names. Only those of runc's shim are known here."""
    if not is_runc(runtime):
        return {name: "must be a string" for name in ("TypeUrl", "ConfigPath") if _is_odd(options.get(name))}
    problems = {}
    for name, value in options.items():
        kind = RUNC_OPTIONS.get(name)
        if kind is None:
            problems[name] = f"is not known to {RUNC}: it has {', '.join(RUNC_OPTIONS)}"
        elif type(value) is not kind:
            words = {str: "a string", bool: "true or false", int: "a number"}
            problems[name] = f"must be {words[kind]}"
        elif kind is int and not 0 <= int(value) < 1 << 32:
            problems[name] = "must be 0 to 4294967295"
    return problems


def _is_odd(value: OptionValue | None) -> bool:
    return value is not None and not isinstance(value, str)
