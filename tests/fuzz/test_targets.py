"""Each format that outsiders write: its corpus, a moment of mutations; nightly, runs that coverage guides."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import SECONDS, TARGETS, Target

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).parent.parent.parent
MUTATIONS = 1500
"""Inputs of one target in the suite, always the same ones."""
NIGHTLY_SECONDS = 15
HANG_SECONDS = 600
"""For one input, or until the fuzzer has begun: on a busy machine its imports alone may take minutes."""


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def mutations(seeds: list[bytes], target: Target, chance: random.Random) -> Iterator[bytes]:
    """Each input is a seed with up to eight changes: bytes drawn, cut, doubled, another seed's, a token."""
    for _ in range(MUTATIONS):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 8)):
            at = chance.randint(0, len(data))
            end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64)))
            match chance.randrange(6):
                case 0:
                    data[at:end] = chance.randbytes(end - at)
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end] * chance.choice((1, 2, 50))
                case 3:
                    other = chance.choice(seeds)
                    begin = chance.randint(0, len(other))
                    data[at:] = other[begin:]
                case _ if target.tokens:
                    data[at : chance.choice((at, end))] = chance.choice(target.tokens)
        yield bytes(data[: target.max_bytes])


def take(target: Target, data: bytes) -> None:
    began = time.process_time()
    try:
        target.one_input(data)
    except Exception as error:
        raise AssertionError(f"{error!r} for {data!r}") from error
    assert time.process_time() - began < SECONDS, f"too slow for {data!r}"


@pytest.mark.parametrize("name", TARGETS)
def test_each_input_of_the_corpus_is_taken_or_refused(name: str) -> None:
    inputs = corpus(name)
    assert inputs
    for data in inputs:
        assert len(data) <= TARGETS[name].max_bytes
        take(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_are_taken_or_refused(name: str) -> None:
    for data in mutations(corpus(name), TARGETS[name], random.Random(name)):
        take(TARGETS[name], data)


def test_an_input_that_breaks_a_reader_is_shown() -> None:
    def breaks(data: bytes) -> None:
        raise KeyError(data)

    with pytest.raises(AssertionError, match="KeyError"):
        take(Target(breaks), b"abc")


def test_each_directory_of_the_corpus_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()


@pytest.mark.nightly
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris has packages for x86-64 and Python before 3.14 only",
)
@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_coverage_leads_to_are_taken_or_refused(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", name, f"-max_total_time={NIGHTLY_SECONDS}"]
    command += [
        f"-timeout={HANG_SECONDS}",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={tmp_path}/",
        str(tmp_path),
    ]
    limit = NIGHTLY_SECONDS + 2 * HANG_SECONDS
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
