"""Commands in a running container, by the runtime's exec, with their output captured."""

from __future__ import annotations

import contextlib
import itertools
import os

import msgspec

from crib.backends.oci.argv import ExecFiles
from crib.backends.oci.bundles import Bundles
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.failures import runtime_words, trying
from crib.backends.oci.signals import Signals
from crib.host.pidfds import is_running, open_pidfd, start_time, wait_pidfd
from crib.host.processes import Completed, RunOptions, run
from crib.model.container import ContainerRecord, ExecCommand, ExecResult
from crib.model.errors import Broken, TimedOut, WrongState
from crib.ocispec.process import exec_process, oom_score_adj
from crib.wire import oci_runtime as oci

_FOREVER = 10 * 365 * 86400.0
_KILL_TIME = 10.0
_WORDS_LIMIT = 65536
_REMOVE_TIME = 0.1
_ENDING_TIME = 0.05
_HOME_ROUNDS = 5
"""How often what a command left behind is looked for: it may fork while it is moved."""


class Commands:
    """Runs commands in containers."""

    def __init__(self, environment: OciEnvironment, bundles: Bundles, signals: Signals) -> None:
        self._env = environment
        self._bundles = bundles
        self._signals = signals
        self._serial = itertools.count()
        self._busy: set[str] = set()
        """Cgroups of commands that could not be removed yet."""

    async def run_sync(self, record: ContainerRecord, command: ExecCommand) -> ExecResult:
        """See Handler.exec_sync.

        A command with a time limit gets a cgroup of its own below the container's, so that all of it can be
        ended: a child that called setsid(2) is in no process group that we know.
        """
        what = f"exec in container {record.id}"
        name = f"exec-{os.getpid()}-{next(self._serial)}"
        stem = f"{self._env.paths.container(record.id)}/{name}"
        note = self._bundles.read_note(record.id)
        if note is None:
            raise WrongState(f"{what}: it has no bundle")
        runtime = self._env.runtime_of(note.handler)
        is_crun = self._env.is_crun and runtime == self._env.runtime
        # Other than crun, runc copies the output itself, and does not end before a child in the background.
        files = ExecFiles(f"{stem}.json", f"{stem}.log", "" if is_crun else f"{stem}.pid")
        if self._signals.is_frozen(note.cgroup):
            # A process that joins a frozen group stops there, and the call with it.
            raise WrongState(f"{what}: the container is paused")
        cgroup = f"{note.cgroup}/{name}"
        below = name if command.timeout > 0 else ""
        with trying(what):
            try:
                if below:
                    self._env.cgroups.create(cgroup)
                self._write_process(record, command, files.process)
                completed = await run(
                    runtime.exec(record.id, files, below),
                    timeout=command.timeout if command.timeout > 0 else _FOREVER,
                    options=RunOptions(
                        output_limit=command.output_limit,
                        pid_file=files.pid,
                        # Crun gives it to a container's first process only: a command would have ours.
                        oom_score_adj=oom_score_adj(record.resources.oom_score_adj, self._env.host),
                    ),
                )
                if completed.timed_out and not await self._env.cgroups.kill(cgroup, _KILL_TIME):
                    raise TimedOut(f"{what} took longer than {command.timeout:g} s: {cgroup} does not die")
                return await self._result(record, command, completed, _words(files.log))
            finally:
                for path in filter(None, (files.process, files.log, files.pid)):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                if below:
                    self._bring_home(cgroup, note.cgroup)
                    await self._remove_cgroups(cgroup)

    async def _remove_cgroups(self, cgroup: str) -> None:
        """The command's, and those of earlier ones: a process that ends keeps its own busy for a moment."""
        self._busy.add(cgroup)
        for one in tuple(self._busy):
            with contextlib.suppress(OSError):
                await self._env.cgroups.remove(one, timeout=_REMOVE_TIME if one == cgroup else 0)
                self._busy.discard(one)

    def _bring_home(self, cgroup: str, container: str) -> None:
        """What the command left in the background lives on in the container's own cgroup.

        In the command's, each probe that does so would leave one more cgroup for as long as the container
        lives.
        """
        for _round in range(_HOME_ROUNDS):
            pids = self._env.cgroups.pids(cgroup)
            for pid in pids:
                with contextlib.suppress(OSError):  # it has ended, or the container's cgroup has gone
                    self._env.cgroups.add_process(container, pid)
            if not pids:
                return

    def _write_process(self, record: ContainerRecord, command: ExecCommand, path: str) -> None:
        try:
            first = self._bundles.read_process(record.id)
            # An update may have changed it since.
            score = oom_score_adj(record.resources.oom_score_adj, self._env.host)
            process = exec_process(msgspec.structs.replace(first, oom_score_adj=score), command.argv)
        except ValueError as error:
            raise Broken(f"exec in container {record.id}: its config.json cannot be read: {error}") from error
        with open(path, "wb") as file:
            file.write(oci.encode(process))

    async def _result(
        self, record: ContainerRecord, command: ExecCommand, completed: Completed, words: str
    ) -> ExecResult:
        if completed.timed_out:
            raise TimedOut(
                f"exec of {command.argv[0]!r} in container {record.id} took longer than {command.timeout:g} s"
            )
        if completed.exit_code != 0 and words:
            what = f"exec of {command.argv[0]!r} in container {record.id}"
            if await self._has_ended(record):
                raise WrongState(f"{what}: the container does not run")
            raise Broken(f"{what}: {words}")
        # 128+n where the runtime itself was ended by a signal
        code = completed.exit_code if completed.exit_code >= 0 else 128 - completed.exit_code
        return ExecResult(code, completed.stdout, completed.stderr)

    async def _has_ended(self, record: ContainerRecord) -> bool:
        """Whether the container is no more, or ends just now: a kill may have met the command first."""
        pid = self._bundles.first_pid(record.id)
        started = start_time(pid) if pid else None
        if started is None or not is_running(pid, started):
            return True
        try:
            pidfd = open_pidfd(pid)
        except ProcessLookupError:
            return True
        try:
            return await wait_pidfd(pidfd, _ENDING_TIME)
        finally:
            os.close(pidfd)


def _words(path: str) -> str:
    """What the runtime itself said of a failure, apart from the command; its warnings are left out."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_WORDS_LIMIT).splitlines()
    except FileNotFoundError:
        return ""
    failures = [line for line in lines if " level=" not in line or " level=error " in line]
    return runtime_words("\n".join(failures)) if failures else ""
