"""Running one CNI plugin: find it, start it, read its answer (CNI specification, section 2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crib.host import processes
from crib.host.processes import RunOptions
from crib.model.errors import Broken, CribError, Unavailable
from crib.wire import cni

_OUTPUT_BYTES: Final = cni.DOCUMENT_BYTES
_WORDS: Final = 2000


@dataclass(frozen=True, slots=True)
class Call:
    """One command for one plugin; `attachment` is None for STATUS, GC and VERSION."""

    command: str
    plugin_type: str
    stdin: bytes
    attachment: cni.Attachment | None = None


class PluginFailed(Exception):
    """A plugin answered with an error."""

    def __init__(self, call: Call, error: cni.PluginError) -> None:
        super().__init__(f"cni plugin {call.plugin_type} {call.command}: {error}")
        self.error = error

    def as_crib_error(self, whose: str) -> CribError:
        """What the verbs see of it."""
        kind = Unavailable if self.error.code == cni.TRY_AGAIN_LATER else Broken
        return kind(f"{whose}: {self}")


class Plugins:
    """The plugins in a list of directories; the first directory that has one wins."""

    def __init__(self, directories: Sequence[str], timeout: float) -> None:
        self._directories = tuple(directories)
        self._timeout = timeout

    def find(self, plugin_type: str) -> str:
        """Where a plugin is. Broken naming the directories if it is in none."""
        for directory in self._directories:
            path = os.path.join(directory, cni.check_plugin_type(plugin_type))
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        raise Broken(f"cni plugin {plugin_type} is in none of {', '.join(self._directories)}")

    async def call(self, call: Call) -> bytes:
        """What the plugin printed. PluginFailed with its own error; Broken if it could not be run."""
        path = self.find(call.plugin_type)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
        environment = inherited | cni.environment(call.command, call.attachment, self._directories)
        what = f"cni plugin {call.plugin_type} {call.command}"
        try:
            done = await processes.run(
                (path,),
                timeout=self._timeout,
                stdin=call.stdin,
                env=environment,
                options=RunOptions(output_limit=_OUTPUT_BYTES),
            )
        except OSError as error:
            raise Broken(f"{what}: cannot run {path}: {error.strerror or error}") from error
        if done.timed_out:
            raise Broken(f"{what}: no answer within {self._timeout:g} s, killed")
        if done.truncated:
            raise Broken(f"{what}: printed more than {_OUTPUT_BYTES} bytes")
        if done.exit_code != 0:
            refusal = cni.parse_error(done.stdout)
            if refusal is not None:
                raise PluginFailed(call, refusal)
            words = (done.stderr or done.stdout)[-_WORDS:].decode("utf-8", "replace").strip()
            raise Broken(f"{what}: exit code {done.exit_code}: {words or 'it said nothing'}")
        return done.stdout
