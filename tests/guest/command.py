"""script/guest NAME COMMAND…: a command in a guest, with this checkout; or a suite, and its result kept."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.guest import images, lab, suites
from tests.guest.images import LabError

TROUBLE = 125
"""Exit code for what the lab could not do; a command's own code is given back."""


def main(argv: list[str]) -> int:
    options = _options(argv)
    # a signal unwinds like an error, so that the guest goes with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
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


def _run_suite(guest: lab.Guest, options: argparse.Namespace) -> int:
    commit = suites.checkout_commit()  # the tree may be at another one when the suite has ended
    with tempfile.TemporaryDirectory() as scratch:
        result = suites.run_suite(guest, options.suite, options.artefacts or Path(scratch))
    print(f"{options.name}, {options.suite}: {result}")
    for name in result.failures:
        print(f"failed: {name}")
    if options.record:
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
    option("--record", action="store_true", help="write the suite's result into docs/compatibility.md")
    option("--memory", type=int, default=lab.MEMORY_MIB, metavar="MIB")
    option("--cpus", type=int, default=lab.CPUS)
    option("name", metavar="NAME", help=", ".join(images.RECIPES))
    option("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)
