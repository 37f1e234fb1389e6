"""One run of the command line: the endpoint, where pods' files are, the event loop, and how the program ends.

An expected failure prints one line on standard error. docs/cli.md has the exit codes for people. This module
comes before anything else, so it imports little itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from crib.cli.status_line import STATUS_LINE

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from crib.client import Connection

Result = TypeVar("Result")
DEFAULT_PODS_DIR = "/var/lib/crib/pods"
PODS_DIR_VARIABLE = "CRIB_PODS_DIR"

FAILED = 1
USAGE = 2
CRIB_FAILED = 125
"""From here on the codes are those of docker, podman and shells, for commands that exit with the code of a
program in a container (exec, attach). This one: crib or the runtime failed, so there is no such code."""
CANNOT_RUN = 126
"""The program is there, and cannot be executed."""
NO_PROGRAM = 127
"""There is no such program."""
BY_SIGNAL = 128
"""And the signal's number."""


class CommandError(Exception):
    """The command failed. The message is one line for people, `exit_code` that of the program."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CliSession:
    """The global options. `timeout` is in seconds, for calls without a timeout of their own."""

    def __init__(self, endpoint: str, pods_dir: str = DEFAULT_PODS_DIR, timeout: float = 120.0) -> None:
        self.endpoint = endpoint
        self.pods_dir = pods_dir
        self.timeout = timeout

    def connect(self) -> Connection:
        """A connection to the endpoint, to be used as a context manager."""
        from crib.client import Connection

        return Connection(self.endpoint, timeout=self.timeout)

    def run(self, work: Coroutine[Any, Any, Result], failed: int = FAILED) -> Result:
        """Run a command's coroutine. SIGTERM ends it like Ctrl-C, so that it can clean up.

        `failed` is the exit code of failures that have none of their own: CRIB_FAILED where other codes are
        those of a container's program.
        """
        import asyncio

        main = _with_termination(work)
        try:
            with _interrupts():
                return asyncio.run(main)
        except asyncio.CancelledError:
            raise CommandError("", BY_SIGNAL + signal.SIGTERM) from None
        except Exception as error:
            if failed != FAILED and not hasattr(error, "exit_code"):
                error.exit_code = failed  # type: ignore[attr-defined]  # `ending` asks for it
            raise
        finally:
            main.close()  # Python warns of coroutines that never began: an interrupt may come before that
            work.close()


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C is an exception until the block ends. Outside it just ends the program (see packaging/crib)."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


async def _with_termination(work: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    assert me is not None
    loop.add_signal_handler(signal.SIGTERM, me.cancel)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def say(message: str) -> None:
    """Write a line for people to standard error. Standard output is for results only."""
    from crib.cli.output import clean

    STATUS_LINE.clear()
    print(clean(message), file=sys.stderr, flush=True)


def quiet() -> None:
    """Keep gRPC's own log lines and fork handlers out of a command line; called before grpc is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def fill_standard_streams() -> None:
    """Put /dev/null where this program was started without a standard stream; called before all else.

    What is opened next would have that descriptor, and get what is written to the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # Python's word for it; the lowest free descriptor is the missing one
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  kept to the end


def ending(command: Callable[[], object]) -> int:
    """Run the command and return the program's exit code."""
    try:
        result = command()
        sys.stdout.flush()  # now, while the loss of a reader can still be reported
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError):
            raise  # typer turns only a BrokenPipeError into a SystemExit
        # the reader of our output has gone: Python must not try to write more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BY_SIGNAL + signal.SIGPIPE
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if message:
            say(f"crib: {message}")
        return int(getattr(error, "exit_code", FAILED))
    return result if isinstance(result, int) else 0


def _message(error: Exception) -> str | None:
    """The line for an expected failure; None for a bug in this program."""
    if isinstance(error, CommandError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's errors for wrong usage; their classes are private
        from crib.cli.usage_errors import reworded

        text = " ".join(reworded(error).format_message().split())
        context = getattr(error, "ctx", None)
        return f"{text} (see {context.command_path} --help)" if text and context else text
    from crib.client import ClientError
    from crib.manifest.faults import ManifestError
    from crib.wire.go_template import MalformedTemplate

    if isinstance(error, (ClientError, ManifestError, MalformedTemplate)):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return " ".join(f"{error.strerror or error} {error.filename or ''}".split())
    return None
