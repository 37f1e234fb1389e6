"""Programs that die with the process that started them (prctl(2), PR_SET_PDEATHSIG), whatever kills it.

For a small process that owns a few long-running programs and has no event loop yet. The kernel sends the
signal when the *thread* that forked ends: so only the main thread starts them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crib.host import libc

_FAILED = 127


@dataclass(frozen=True, slots=True)
class TiedOptions:
    """Descriptors (None is /dev/null) stay the caller's. `user` is a uid and gid to run as, None: ours."""

    stdout: int | None = None
    stderr: int | None = None
    pass_fds: tuple[int, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: int | None = None
    groups: tuple[int, ...] = ()
    """With `user`: further groups."""
    own_network: bool = False
    """In a network namespace of its own, with nothing in it."""


@dataclass(frozen=True, slots=True)
class TiedProgram:
    """One that runs; its `pidfd` is the caller's to close."""

    name: str
    pid: int
    pidfd: int


def start_tied(argv: Sequence[str], options: TiedOptions) -> TiedProgram:
    """Start a program, from the main thread of a process with few others. OSError if it cannot be executed.

    It gets no descriptor but the standard ones and `pass_fds`, and no signal of a terminal's.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the kernel would end it with this thread")
    ours = os.getpid()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            _become(argv, options, ours, writing)
        os.close(writing)
        writing = -1
        said = os.read(reading, 4)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if said:
        os.waitpid(pid, 0)
        number = int.from_bytes(said, "little")
        raise OSError(number, os.strerror(number), argv[0])
    return TiedProgram(os.path.basename(argv[0]), pid, os.pidfd_open(pid))


def _become(argv: Sequence[str], options: TiedOptions, parent: int, failed: int) -> None:
    """The child's part. It does not return, and allocates as little as it can."""
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null if options.stdout is None else options.stdout, 1)
        os.dup2(null if options.stderr is None else options.stderr, 2)
        for fd in options.pass_fds:
            os.set_inheritable(fd, True)
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if options.own_network:
            libc.unshare(libc.CLONE_NEWNET)
        if options.user is not None:
            os.setgroups(options.groups)
            os.setgid(options.user)
            os.setuid(options.user)
        # After the change of user, which clears it.
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_FAILED)
        os.execvpe(argv[0], list(argv), dict(options.env))  # noqa: S606  there is no shell on purpose
    except OSError as error:
        os.write(failed, (error.errno or 5).to_bytes(4, "little"))
    finally:
        os._exit(_FAILED)
