"""Commands in a running container, by the runtime's exec, with their output captured."""

from __future__ import annotations

import contextlib
import itertools
import os

from crib.backends.oci.bundles import Bundles
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import runtime_words, trying
from crib.host.processes import Completed, RunOptions, run
from crib.model.container import ContainerRecord, ExecCommand, ExecResult
from crib.model.errors import Broken, TimedOut, WrongState
from crib.ocispec.process import exec_process
from crib.wire import oci_runtime as oci

_FOREVER = 10 * 365 * 86400.0
_KILL_TIME = 10.0
_WORDS_LIMIT = 65536


class Commands:
    """Runs commands in containers."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles) -> None:
        self._env = environment
        self._bundles = bundles
        self._serial = itertools.count()

    async def run_sync(self, record: ContainerRecord, command: ExecCommand) -> ExecResult:
        """See Handler.exec_sync.

        A command with a time limit gets a cgroup of its own below the container's, so that all of it can be
        ended: a child that called setsid(2) is in no process group that we know.
        """
        what = f"exec in container {record.id}"
        name = f"exec-{os.getpid()}-{next(self._serial)}"
        files = f"{self._env.paths.container(record.id)}/{name}"
        note = self._bundles.read_note(record.id)
        if note is None:
            raise WrongState(f"{what}: it has no bundle")
        cgroup = f"{note.cgroup}/{name}"
        below = name if command.timeout > 0 else ""
        with trying(what):
            try:
                if below:
                    self._env.cgroups.create(cgroup)
                self._write_process(record, command, f"{files}.json")
                completed = await run(
                    self._env.runtime.exec(record.id, f"{files}.json", f"{files}.log", below),
                    timeout=command.timeout if command.timeout > 0 else _FOREVER,
                    options=RunOptions(output_limit=command.output_limit),
                )
                if completed.timed_out and not await self._env.cgroups.kill(cgroup, _KILL_TIME):
                    raise Broken(f"{what}: processes in {cgroup} do not die")
                return self._result(record, command, completed, _words(f"{files}.log"))
            finally:
                for ending in ("json", "log"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{files}.{ending}")
                if below:
                    # What the command left in the background stays, and its cgroup with it until the
                    # container goes.
                    with contextlib.suppress(OSError):
                        await self._env.cgroups.remove(cgroup, timeout=0)

    def _write_process(self, record: ContainerRecord, command: ExecCommand, path: str) -> None:
        try:
            process = exec_process(self._bundles.read_process(record.id), command.argv)
        except ValueError as error:
            raise Broken(f"exec in container {record.id}: its config.json cannot be read: {error}") from error
        with open(path, "wb") as file:
            file.write(oci.encode(process))

    def _result(
        self, record: ContainerRecord, command: ExecCommand, completed: Completed, words: str
    ) -> ExecResult:
        if completed.timed_out:
            raise TimedOut(
                f"exec of {command.argv[0]!r} in container {record.id} took longer than {command.timeout:g} s"
            )
        if completed.exit_code != 0 and words:
            what = f"exec of {command.argv[0]!r} in container {record.id}"
            if self._bundles.first_pid(record.id) == 0:
                raise WrongState(f"{what}: the container does not run")
            raise Broken(f"{what}: {words}")
        # 128+n where the runtime itself was ended by a signal
        code = completed.exit_code if completed.exit_code >= 0 else 128 - completed.exit_code
        return ExecResult(code, completed.stdout, completed.stderr)


def _words(path: str) -> str:
    """What the runtime itself said of a failure, apart from the command; its warnings are left out."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_WORDS_LIMIT).splitlines()
    except FileNotFoundError:
        return ""
    failures = [line for line in lines if " level=" not in line or " level=error " in line]
    return runtime_words("\n".join(failures)) if failures else ""
