"""`python -m tests.fuzz NAME [libFuzzer's arguments]`: one target under atheris until it is stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["crib", "h11", "wsproto"]):
    from tests.fuzz.targets import TARGETS


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        print(f"usage: python -m tests.fuzz {'|'.join(TARGETS)} [libFuzzer's arguments]", file=sys.stderr)
        return 2
    corpus = Path(__file__).parent / "corpus" / name
    target = TARGETS[name]
    arguments = [f"-max_len={target.max_bytes}", *sys.argv[2:]]
    # libFuzzer adds what it finds to the first directory: a caller's own, or none.
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], target.one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
