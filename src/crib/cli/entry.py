"""Where the program `crib` begins. What needs no command is answered before the commands are imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program and exit. packaging/crib calls this, which sees to Ctrl-C before."""
    if sys.argv[1:2] == ["__complete"]:
        from crib.cli.completion import answer
        from crib.cli.session import quiet

        quiet()
        answer(sys.argv[3:])
        return
    if sys.argv[1:] != ["--version"]:
        from crib.cli.app import main as run

        run()
        return
    from crib import __version__
    from crib.cli.session import ending, fill_standard_streams

    fill_standard_streams()
    sys.exit(ending(lambda: print(f"crib {__version__}")))
