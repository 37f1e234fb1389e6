"""The one door for programs: start them, wait for them, bound them, and reap what they leave behind.

Programs are started with `subprocess.Popen` (without `preexec_fn`, so that it uses vfork and costs a
millisecond at any memory size) and waited for by pidfd on the event loop. A child's exit is collected here
and nowhere else: every started child is registered, and `host.orphans` collects only children that are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crib.host import priority, undying
from crib.host.capture import Capture, Feed
from crib.host.package_hints import PACKAGE_HINTS
from crib.host.sealed import executable
from crib.host.threads import PROGRAMS, Job

_log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""To find out whether a program's file can be read."""
_STDERR_TAIL = 2000
_UMASK = 0o022
"""What programs expect: ours (`directories.PRIVATE_UMASK`) would shut pods' users out of what they make."""


class ToolMissing(FileNotFoundError):
    """A program is not installed; `tool` is its name, `hint` what to do."""

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.hint = PACKAGE_HINTS.get(os.path.basename(tool), "install it, or put its directory on PATH")
        super().__init__(2, f"program not found; {self.hint}", tool)


class ProgramFailed(Exception):
    """A program ended with another exit code than 0, or was ended at its time limit."""

    def __init__(self, completed: Completed) -> None:
        self.completed = completed
        how = "timed out" if completed.timed_out else f"exit code {completed.exit_code}"
        words = completed.stderr[-_STDERR_TAIL:].decode("utf-8", "replace").strip()
        super().__init__(f"{completed.argv[0]} failed ({how}): {words or 'it said nothing'}")


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended.

    `exit_code` is negative for a signal, as in `subprocess`. `duration` is in seconds. `truncated` says that
    one of the outputs was longer than its limit; what is kept is the beginning.
    """

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes
    duration: float
    timed_out: bool = False
    truncated: bool = False

    def check(self) -> Completed:
        """Itself, or ProgramFailed."""
        if self.exit_code != 0 or self.timed_out:
            raise ProgramFailed(self)
        return self


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Rarely needed options of `run`. `output_limit` is in bytes for each of stdout and stderr.

    With `new_session` the program leads its own process group, and a time-out kills the whole group.
    """

    cwd: str | None = None
    output_limit: int = 1 << 20
    new_session: bool = True
    pass_fds: tuple[int, ...] = ()
    merge_stderr: bool = False
    owner: str = ""
    """As in `SpawnOptions`."""


@dataclass(frozen=True, slots=True)
class SpawnOptions:
    """How a long-running program is started: descriptors (None is /dev/null), environment, working directory.

    The descriptors stay the caller's, who closes its copies.
    """

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    pass_fds: tuple[int, ...] = ()
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    new_session: bool = False
    ends_group: bool = False
    """With `new_session`: what is left of its process group when it has ended is killed."""
    oom_score_adj: int | None = None
    """Inherited by the program and what it starts (proc(5)), where that is allowed; None: ours."""
    owner: str = ""
    """Id of what it is started for, which counts the programs that do not end (`host.undying`)."""


told_of_end: Callable[[str, float, float], None] | None = None
"""Told of each program that somebody waited for, in the context of who did: its name, how long it ran, and
the CPU time that it used with what it waited for itself. Set by the daemon."""
_RUN_DEFAULTS = RunOptions()
_SPAWN_DEFAULTS = SpawnOptions()

# Between the fork and the entry in `children` a reaper in another thread would take the child for an orphan.
children_lock = threading.Lock()
children: dict[int, Child] = {}

MAX_NAMES = 64
"""Programs that are counted by name; more count as `OTHER`."""
OTHER = "other"
_started: Counter[str] = Counter()


def started() -> dict[str, int]:
    """How many programs were started, by name."""
    return dict(_started)


class Child:
    """A started program. The loop it was started on collects its exit, whether or not anybody waits."""

    def __init__(self, popen: subprocess.Popen[bytes], argv: tuple[str, ...], options: SpawnOptions) -> None:
        self.argv = argv
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)
        self.started = time.monotonic()
        self._used: tuple[float, float] | None = None
        self._popen = popen
        self._leads_group = options.new_session
        self._ends_group = options.ends_group
        self._owner = options.owner
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self.pidfd, self.collect)

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._popen.returncode

    async def wait(self, timeout: float | None = None) -> int:
        """The exit code; TimeoutError after `timeout` seconds, which leaves the program running."""
        if not self._exited.done():
            await asyncio.wait((self._exited,), timeout=timeout)
        if not self._exited.done():
            raise TimeoutError
        code = self._exited.result()
        used, self._used = self._used, None
        if told_of_end is not None and used is not None:
            told_of_end(self.argv[0], *used)
        return code

    def signal(self, number: int, *, group: bool = False) -> bool:
        """Send a signal (with `group` to the group that it leads, if any); False when it has ended."""
        if self._popen.returncode is not None:
            return False
        try:
            if group and self._leads_group:
                # The number cannot belong to another group: the leader is not reaped before `collect`.
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> bool:
        """End it, and its process group if it leads one; False when it has ended already."""
        if self._popen.returncode is not None:
            return False
        undying.note(self.pid, self.argv, self._owner)
        return self.signal(signal.SIGKILL, group=True)

    def collect(self) -> bool:
        """Take up its end, which has come; False where another loop will."""
        if asyncio.get_running_loop() is not self._loop:
            return False
        self._loop.remove_reader(self.pidfd)
        if self._ends_group:
            self.signal(signal.SIGKILL, group=True)
        with children_lock:
            _, status, used = os.wait4(self.pid, 0)  # `Popen.wait` does not say what was used
            self._popen.returncode = code = os.waitstatus_to_exitcode(status)
            children.pop(self.pid, None)
        self._used = time.monotonic() - self.started, used.ru_utime + used.ru_stime
        if not self._exited.done():
            self._exited.set_result(code)  # first: who waits for it has no other way to hear of it
        os.close(self.pidfd)
        undying.forget(self.pid)
        return True


def spawn(argv: Sequence[str], options: SpawnOptions = _SPAWN_DEFAULTS) -> Child:
    """Start a program (1 ms) from the running loop's thread.

    ToolMissing when it is not installed; OSError when it, or its working directory, cannot be used, and
    TooManyUndying.
    """
    command = tuple(argv)
    undying.refuse_if_many(options.owner, command[0])
    with children_lock, priority.lent_oom_score(options.oom_score_adj):
        try:
            popen = subprocess.Popen(
                command,
                executable=executable(command[0]),
                stdin=subprocess.DEVNULL if options.stdin is None else options.stdin,
                stdout=subprocess.DEVNULL if options.stdout is None else options.stdout,
                stderr=subprocess.DEVNULL if options.stderr is None else options.stderr,
                env=options.env,
                cwd=options.cwd,
                pass_fds=options.pass_fds,
                start_new_session=options.new_session,
                umask=_UMASK,
            )
        except FileNotFoundError as error:
            # The kernel gives the same errno for a missing working directory and for a script's missing
            # interpreter.
            if (options.cwd is not None and error.filename == options.cwd) or os.path.exists(command[0]):
                raise
            raise ToolMissing(command[0]) from error
        try:
            child = Child(popen, command, options)
        except BaseException:
            # No descriptor left for its pidfd, and without one it could never be awaited.
            popen.kill()
            popen.wait()
            raise
        children[popen.pid] = child
    name = os.path.basename(command[0])
    _started[name if name in _started or len(_started) < MAX_NAMES else OTHER] += 1
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("started %s (pid %d)", shlex.join(command), child.pid)
    return child


async def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    options: RunOptions = _RUN_DEFAULTS,
) -> Completed:
    """Run a program to its end and return what it said; a failing exit code is a result, not an error.

    After `timeout` seconds it is killed (with its process group) and the result says `timed_out`. It is over
    when the program itself has ended: output of a process that it left in the background is not waited for.
    It is killed too when the caller is cancelled, and has ended by then unless that takes more than 5 s.
    ToolMissing when it is not installed; TimeoutError when it does not die even from SIGKILL within 5 s.
    """
    started = time.monotonic()
    with Capture(options.output_limit) as out, Capture(options.output_limit) as err, Feed(stdin) as feed:
        child = spawn(
            argv,
            SpawnOptions(
                stdin=feed.child_end,
                stdout=out.child_end,
                stderr=out.child_end if options.merge_stderr else err.child_end,
                pass_fds=options.pass_fds,
                env=env,
                cwd=options.cwd,
                new_session=options.new_session,
                owner=options.owner,
            ),
        )
        try:
            for pipe in (out, err, feed):
                pipe.start()
            timed_out = await _wait_or_kill(child, timeout)
            code = await child.wait()
        except asyncio.CancelledError:
            child.kill()  # and gone when the caller continues, which must not meet it at work
            with contextlib.suppress(TimeoutError):
                await child.wait(undying.GRACE)
            raise
        finally:
            child.kill()
        completed = Completed(
            argv=child.argv,
            exit_code=code,
            stdout=out.finish(),
            stderr=err.finish(),
            duration=time.monotonic() - started,
            timed_out=timed_out,
            truncated=out.truncated or err.truncated,
        )
    if _log.isEnabledFor(logging.DEBUG):
        words = "timed out" if timed_out else f"exit code {completed.exit_code}"
        _log.debug("ran %s: %s in %.1f ms", shlex.join(child.argv), words, completed.duration * 1000)
    return completed


async def _wait_or_kill(child: Child, timeout: float) -> bool:
    try:
        await child.wait(timeout)
    except TimeoutError:
        if child.exit_code is not None:
            return False
        child.kill()
        try:
            await child.wait(undying.GRACE)
        except TimeoutError:
            text = f"{child.argv[0]} (pid {child.pid}) is alive {undying.GRACE:.0f} s after SIGKILL"
            raise TimeoutError(text) from None
        return True
    return False


async def look_at(program: str) -> None:
    """Read the beginning of a program's file, which may be on a file system that hangs. OSError; Overdue.

    Starting a program waits until the kernel executes it, and must not hang.
    """

    def read() -> None:
        fd = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.read(fd, 1)
        finally:
            os.close(fd)

    await PROGRAMS.run(Job(f"looking at the program {program}", program, LOOK_SECONDS), read)
