"""Directories of small documents: what is decoded once, and what is read again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from crib.backends.bundle import spec_files
from crib.backends.bundle.spec_files import SpecFiles


class Decoder:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, path: str, data: bytes) -> str:
        self.times += 1
        return data.decode()


@pytest.fixture
def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
def files(tmp_path: Path, decoder: Decoder) -> SpecFiles[str]:
    return SpecFiles((str(tmp_path),), (".json",), decoder)


def contents(files: SpecFiles[str]) -> list[str | None]:
    return [found.content for found in files.read()]


def test_another_write_of_the_same_size_and_time_is_seen(
    tmp_path: Path, files: SpecFiles[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_files, "_SETTLED", -1.0)
    path = tmp_path / "a.json"
    path.write_text("one")
    written = path.stat().st_mtime_ns
    assert contents(files) == ["one"]
    path.write_text("two")
    os.utime(path, ns=(written, written))
    assert contents(files) == ["two"]


def test_what_has_settled_is_decoded_once_and_what_is_young_each_time(
    tmp_path: Path, files: SpecFiles[str], decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("one")
    now = time.time()
    monkeypatch.setattr(spec_files.time, "time", lambda: now)
    assert [contents(files) for _ in range(2)] == [["one"]] * 2
    assert decoder.times == 2
    monkeypatch.setattr(spec_files.time, "time", lambda: now + 1)
    assert [contents(files) for _ in range(3)] == [["one"]] * 3
    assert decoder.times == 3
