"""The administrator's options of a runtime, as its shim is given them (containerd, CRI config.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from crib.backends.shim.nouns import Typed
from crib.model.shim_settings import OptionValue, is_runc
from crib.stubs.shim.runc_options_pb2 import Options as RuncOptions
from crib.stubs.shim.runtime_options_pb2 import Options as RuntimeOptions

RUNC_URL = "containerd.runc.v1.Options"
GENERIC_URL = "runtimeoptions.v1.Options"
_RUNC_FIELDS = {
    "BinaryName": "binary_name",
    "Root": "root",
    "SystemdCgroup": "systemd_cgroup",
    "NoPivotRoot": "no_pivot_root",
    "NoNewKeyring": "no_new_keyring",
    "ShimCgroup": "shim_cgroup",
    "IoUid": "io_uid",
    "IoGid": "io_gid",
    "CriuImagePath": "criu_image_path",
    "CriuWorkPath": "criu_work_path",
}


def runtime_options(
    runtime: str, options: Mapping[str, OptionValue], *, root: str, systemd: bool
) -> Typed | None:
    """For `create` and for the start of a shim; None where there is nothing to say.

    Runc's shim is told where its state is kept and who makes cgroups, unless the options do. Every other is
    given a type, the path of a file, or else all options in TOML, which only it understands.
    """
    if is_runc(runtime):
        told = {"Root": root, "SystemdCgroup": systemd, **options}
        message = RuncOptions(**{_RUNC_FIELDS[name]: value for name, value in told.items()})  # type: ignore[arg-type]  # checked with the settings
        return Typed(RUNC_URL, message.SerializeToString())
    return generic_options(options) if options else None


def generic_options(options: Mapping[str, OptionValue]) -> Typed:
    """Of every shim but runc's."""
    generic = RuntimeOptions(
        type_url=str(options.get("TypeUrl", "")), config_path=str(options.get("ConfigPath", ""))
    )
    if not generic.config_path:
        generic.config_body = _toml(options)
    return Typed(GENERIC_URL, generic.SerializeToString())


def _toml(options: Mapping[str, OptionValue]) -> bytes:
    """Of strings, numbers and booleans TOML and JSON have the same form."""
    lines = (f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in options.items())
    return "".join(lines).encode()
