"""Running one CNI plugin: find it, start it, read its answer (CNI specification, section 2)."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from crib.backends.failures import failure
from crib.backends.network.cni.choice import LOOK_SECONDS
from crib.host import processes
from crib.host.processes import Completed, RunOptions
from crib.host.strays import marks
from crib.host.threads import PROGRAMS, Job, Overdue
from crib.model.errors import Broken, CribError, Unavailable
from crib.model.tallies import Operations
from crib.wire import cni

_OUTPUT_BYTES = cni.DOCUMENT_BYTES
_WORDS = 2000
UNKNOWN_COMMAND = 4
"""The code of a plugin that does not know a command (invalid environment variable: CNI_COMMAND)."""
_NOBODY = cni.Attachment("dummy", "dummy", "dummy", {})
"""Plugins of the first versions need all variables, even to print their version."""
ANSWER_SECONDS = 5.0
"""For a plugin that is only asked about itself: a kubelet's Status call waits for it."""
PLUGIN_LIMIT = 256
"""Plugins, each with its commands, that are counted apart."""
GC_SECONDS = 10.0
"""For a plugin's GC, which nobody waits for; while a pod does it has less (see `exclusion`)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One command for one plugin; `attachment` is None for STATUS and GC."""

    command: str
    plugin_type: str
    stdin: bytes
    attachment: cni.Attachment | None = None

    def __str__(self) -> str:
        return f"cni plugin {self.plugin_type} {self.command}"


@dataclass(frozen=True, slots=True)
class PluginAnswer:
    """What a plugin that succeeded printed."""

    call: Call
    stdout: bytes
    stderr: bytes

    def malformed(self, error: cni.MalformedCni, whose: str = "") -> Broken:
        """What to raise when the answer is not what it must be: with what the plugin said beside it."""
        words = _words(self.stderr)
        text = f"{self.call}: {error}" + (f"; it said: {words}" if words else "")
        return Broken(f"{whose}: {text}" if whose else text)


class PluginMissing(Unavailable):
    """A plugin is in no directory."""


class PluginFailed(Exception):
    """A plugin answered with an error."""

    def __init__(self, call: Call, error: cni.PluginError) -> None:
        super().__init__(f"{call}: {error}")
        self.error = error

    def as_crib_error(self, whose: str) -> CribError:
        """What the verbs see of it."""
        kind = Unavailable if self.error.code == cni.TRY_AGAIN_LATER else Broken
        return kind(f"{whose}: {self}")


@dataclass(frozen=True, slots=True)
class _Spoken:
    """The answer to VERSION, and the file that gave it."""

    file: tuple[int, int]
    versions: tuple[str, ...]


class Plugins:
    """The plugins in a list of directories; the first directory that has one wins.

    Each is run with the marks of its `owner`, by which that one's next life knows it (`host.strays`).
    """

    def __init__(self, directories: Sequence[str], timeout: float, owner: str) -> None:
        self._owner = owner
        self._directories = tuple(directories)
        self._timeout = timeout
        self._spoken: dict[str, _Spoken] = {}
        self.figures = Operations(PLUGIN_LIMIT)
        """By plugin and command."""

    def adapt(self, directories: Sequence[str], timeout: float) -> None:
        """Look there from now on, and give each so many seconds."""
        self._directories = tuple(directories)
        self._timeout = timeout

    async def find(self, plugin_type: str) -> str:
        """Where a plugin is. PluginMissing naming the directories if it is in none, or they do not answer."""
        return (await self._look_for(plugin_type))[0]

    async def _look_for(self, plugin_type: str) -> tuple[str, tuple[int, int]]:
        """The path, and what distinguishes the file from another one.

        Its beginning is read: who starts a program waits until the kernel has done so, and must not hang.
        """

        def look() -> tuple[str, tuple[int, int]]:
            for directory in self._directories:
                path = os.path.join(directory, cni.check_plugin_type(plugin_type))
                if os.path.isfile(path) and os.access(path, os.X_OK):
                    with open(path, "rb") as file:
                        file.read(1)
                        status = os.fstat(file.fileno())
                    return path, (status.st_ino, status.st_mtime_ns)
            raise PluginMissing(f"cni plugin {plugin_type} is in none of {', '.join(self._directories)}")

        places = ", ".join(self._directories)
        try:
            job = Job(f"looking for cni plugin {plugin_type} in {places}", places, LOOK_SECONDS)
            return await PROGRAMS.run(job, look)
        except Overdue as error:
            raise PluginMissing(str(error)) from error

    async def versions(self, plugin_type: str, version: str) -> tuple[str, ...]:
        """The CNI versions that a plugin speaks: asked (in `version`) once for each file of that name.

        Broken when it cannot say.
        """
        path, file = await self._look_for(plugin_type)
        spoken = self._spoken.get(path)
        if spoken is None or spoken.file != file:
            spoken = _Spoken(file, await self._ask_versions(plugin_type, version))
            self._spoken[path] = spoken
        return spoken.versions

    async def _ask_versions(self, plugin_type: str, version: str) -> tuple[str, ...]:
        stdin = f'{{"cniVersion":"{version}"}}'.encode()
        try:
            answer = await self.call(Call("VERSION", plugin_type, stdin, _NOBODY))
        except PluginFailed as error:
            if error.error.code == UNKNOWN_COMMAND:  # VERSION came with 0.2.0
                return cni.VERSIONS[:1]
            raise Broken(str(error)) from error
        try:
            return cni.parse_versions(answer.stdout)
        except cni.MalformedCni as error:
            raise answer.malformed(error) from error

    async def call(self, call: Call) -> PluginAnswer:
        """What the plugin printed. PluginFailed with its own error; Broken if it could not be run.

        After the time-out it is killed, with the processes that it started.
        """
        with self.figures.timed(call.plugin_type, call.command):
            return await self._run(call)

    async def _run(self, call: Call) -> PluginAnswer:
        path = await self.find(call.plugin_type)
        timeout = min(self._timeout, _limit_of(call.command))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
        try:
            told = cni.environment(call.command, call.attachment, self._directories)
        except cni.MalformedCni as error:
            raise Broken(f"{call}: {error}") from error
        try:
            done = await processes.run(
                (path,),
                timeout=timeout,
                stdin=call.stdin,
                env=inherited | told | marks(self._owner, path),
                options=RunOptions(output_limit=_OUTPUT_BYTES),
            )
        except OSError as error:
            raise failure(f"{call}: cannot run {path}", error) from error
        if done.timed_out:
            words = _words(done.stderr)
            late = f"{call}: no answer within {timeout:g} s, killed"
            raise Broken(late + (f"; it said: {words}" if words else ""))
        if done.truncated:
            raise Broken(f"{call}: printed more than {_OUTPUT_BYTES} bytes")
        if done.exit_code != 0:
            refusal = cni.parse_error(done.stdout)
            if refusal is not None:
                raise PluginFailed(call, refusal)
            words = _words(done.stderr) or _words(done.stdout)
            raise Broken(f"{call}: {_ending(done)}: {words or 'it said nothing'}")
        return PluginAnswer(call, done.stdout, done.stderr)


def _limit_of(command: str) -> float:
    """Seconds for a command, where the settings allow so much."""
    match command:
        case "STATUS" | "VERSION":
            return ANSWER_SECONDS
        case "GC":
            return GC_SECONDS
        case _:
            return math.inf


def _ending(done: Completed) -> str:
    if done.exit_code >= 0:
        return f"exit code {done.exit_code}"
    try:
        return f"ended by {signal.Signals(-done.exit_code).name}"
    except ValueError:
        return f"ended by signal {-done.exit_code}"


def _words(output: bytes) -> str:
    return output[-_WORDS:].decode("utf-8", "replace").strip()
