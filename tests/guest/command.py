"""script/guest NAME COMMAND…: a command in a guest, with this checkout; or a suite, and its result kept."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.guest import images, lab, suites
from tests.guest.images import LabError, OutOfTime

TROUBLE = 125
"""Exit code for what the lab could not do; a command's own code is given back."""

FETCH_SECONDS = 30.0
"""To bring a suite's report and logs out of the guest."""


def main(argv: list[str]) -> int:
    options = _options(argv)
    # a signal unwinds like an error, so that the guest goes with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.within is not None:
            return _try_suite(options, time.monotonic() + options.within)
        image = images.image(options.name)
        if not (options.command or options.suite or options.keep):
            print(image.directory)
            return 0
        with lab.Guest(image, memory=options.memory, cpus=options.cpus, cold=options.cold) as guest:
            guest.copy_checkout()
            return _run_suite(guest, options) if options.suite else _run(guest, options)
    except LabError as error:
        print(f"script/guest: {error}", file=sys.stderr)
        return TROUBLE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(guest: lab.Guest, options: argparse.Namespace) -> int:
    code = 0
    if options.command:
        code = guest.stream(*options.command)
    if options.artefacts is not None:
        guest.copy_out(lab.ARTEFACTS, options.artefacts)
    if options.keep:
        print(
            f"script/guest: the guest stays until this is interrupted; enter it by\n{guest.ssh_command}",
            file=sys.stderr,
            flush=True,
        )
        signal.pause()
    return code


def _try_suite(options: argparse.Namespace, deadline: float) -> int:
    """The suite, where this machine can boot a guest in time; else a line that says why not, and no failure.

    What has failed by the deadline is one.
    """
    with contextlib.ExitStack() as stack:
        try:
            with _time_limit(deadline, "the guest was not up in time"):
                image = images.image(options.name)
                # cold: the saved state would be made first, for a run that may be the only one here
                guest = lab.Guest(image, memory=options.memory, cpus=options.cpus, cold=True)
                stack.enter_context(guest)
                guest.copy_checkout()
            within = deadline - time.monotonic() - suites.END_SECONDS - FETCH_SECONDS
            if within < 1.0:
                raise OutOfTime("the guest was up too late")
        except (LabError, OSError) as error:
            return _not_run(options, error)
        try:
            with _time_limit(deadline, "it did not end in time"):
                return _run_suite(guest, options, within)
        except OutOfTime as error:
            return _not_run(options, error)


def _not_run(options: argparse.Namespace, error: Exception) -> int:
    lines = str(error).splitlines() or [type(error).__name__]
    reason = " ".join(dict.fromkeys((lines[0], lines[-1])))
    print(f"script/guest: no result of {options.suite} in {options.name}: {reason}", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _time_limit(deadline: float, words: str) -> Iterator[None]:
    """OutOfTime at the deadline, wherever the main thread is then."""

    def end(*_: object) -> None:
        raise OutOfTime(words)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _run_suite(guest: lab.Guest, options: argparse.Namespace, within: float | None = None) -> int:
    commit = suites.checkout_commit()  # the tree may be at another one when the suite has ended
    with tempfile.TemporaryDirectory() as scratch:
        result = suites.run_suite(guest, options.suite, options.artefacts or Path(scratch), within)
    print(f"{options.name}, {options.suite}: {result}")
    for name in result.failures:
        print(f"failed: {name}")
    if options.record and not result.cut_off:
        suites.record(guest, options.suite, result, commit)
    return 1 if result.failed else 0


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/guest",
        description="Run COMMAND as root in a guest, in a copy of this checkout (which has its .venv there). "
        "Exits with its code; 125 is the lab's own. Without COMMAND the guest's image is made, and its place "
        "printed.",
    )
    option = parser.add_argument
    option("--artefacts", type=Path, metavar="DIR", help="bring back what is put into $CRIB_ARTEFACTS")
    option("--keep", action="store_true", help="leave the guest running after COMMAND, until interrupted")
    option("--cold", action="store_true", help="boot, instead of going on from a saved booted state")
    option("--suite", choices=suites.SUITES, help="run this instead of a COMMAND")
    option(
        "--within",
        type=float,
        metavar="SECONDS",
        help="with --suite: run it as far as it gets in this time, which includes making the image; "
        "a machine that boots no guest, or has no time for all tests, prints a line and does not fail",
    )
    option("--record", action="store_true", help="write the suite's result into docs/compatibility.md")
    option("--memory", type=int, default=lab.MEMORY_MIB, metavar="MIB")
    option("--cpus", type=int, default=lab.CPUS)
    option("name", metavar="NAME", help=", ".join(images.RECIPES))
    option("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    if options.within is not None and not options.suite:
        parser.error("--within needs --suite")
    if options.suite and options.command:
        parser.error(f"--suite runs no COMMAND: {' '.join(options.command)} (options come before NAME)")
    return options
