"""script/guest NAME COMMAND…: run a command in a guest, with this checkout."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.guest import images, lab
from tests.guest.images import LabError


def main(argv: list[str]) -> int:
    options = _options(argv)
    # a signal unwinds like an error, so that the guest goes with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        image = images.image(options.name)
        if not options.command and not options.keep:
            print(image.directory)
            return 0
        with lab.Guest(image, memory=options.memory, cpus=options.cpus) as guest:
            guest.copy_checkout()
            return _run(guest, options)
    except LabError as error:
        print(f"script/guest: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


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
        )
        signal.pause()
    return code


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/guest",
        description="Run COMMAND as root in a guest, in a copy of this checkout (which has its .venv there). "
        "Exits with its code; 125 is the lab's own. Without COMMAND the guest's image is made, and its place "
        "printed.",
    )
    parser.add_argument(
        "--artefacts", type=Path, metavar="DIR", help="bring back what COMMAND puts into $CRIB_ARTEFACTS"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the guest running after COMMAND, until interrupted"
    )
    parser.add_argument("--memory", type=int, default=lab.MEMORY_MIB, metavar="MIB")
    parser.add_argument("--cpus", type=int, default=lab.CPUS)
    parser.add_argument("name", metavar="NAME", help=", ".join(images.RECIPES))
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)
