"""`python -m tests.fuzz NAME [libFuzzer's arguments]`: one target under atheris until it is stopped."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["crib", "h11", "wsproto"]):
    from tests.fuzz.targets import SECONDS, TARGETS, Target


def timed(target: Target, data: bytes) -> None:
    """libFuzzer's own limit is one of time, which a busy machine takes from us."""
    began = time.process_time()
    target.one_input(data)
    if (took := time.process_time() - began) > SECONDS:
        raise TimeoutError(f"{took:.1f} s of processor time for one input")


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        print(f"usage: python -m tests.fuzz {'|'.join(TARGETS)} [libFuzzer's arguments]", file=sys.stderr)
        return 2
    corpus = Path(__file__).parent / "corpus" / name
    target = TARGETS[name]
    arguments = [f"-max_len={target.max_bytes}", *sys.argv[2:]]
    # libFuzzer adds what it finds to the first directory: a caller's own, or none.
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], lambda data: timed(target, data))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
